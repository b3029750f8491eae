// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"slices"
	"testing"
)

// TestOneModuleForAName: what the kernel asks for is loaded with what it needs, and nothing else.
func TestOneModuleForAName(t *testing.T) {
	all := parseLate(`/lib/nfnetlink.ko.gz||net-pf-16-proto-12
/lib/nf_tables.ko.gz|nfnetlink|nfnetlink-subsys-10
/lib/nf_conntrack.ko.gz||nf_conntrack-2 nf_conntrack-10
/lib/nf_nat.ko.gz|nf_conntrack|
/lib/nft_chain_nat.ko.gz|nfnetlink nf_tables nf_conntrack nf_nat|nft-chain-1-nat nft-chain-2-nat
/lib/loop.ko.gz||devname:loop-control char-major-10-237 block-major-7-*
/lib/xfs.ko.gz||fs-xfs
/lib/sch_htb.ko.gz||net-sch-htb
no line
`)
	for name, want := range map[string][]string{
		"net-pf-16-proto-12": {"nfnetlink"},
		"nft-chain-2-nat":    {"nfnetlink", "nf_tables", "nf_conntrack", "nf_nat", "nft_chain_nat"},
		"block-major-7-3":    {"loop"},
		"fs-xfs":             {"xfs"},
		"sch_htb":            {"sch_htb"},
		"nf-conntrack":       {"nf_conntrack"},
		"net-pf-38":          nil, // AF_ALG
		"fs-":                nil,
		"*":                  nil,
		"":                   nil,
		"fs-a/b":             nil,
		"netdev-tun":         nil,
	} {
		var files []string
		for _, module := range want {
			files = append(files, "/lib/"+module+".ko.gz")
		}
		if got := wanted(all, name); !slices.Equal(got, files) {
			t.Errorf("wanted(%q) = %q, want %q", name, got, files)
		}
	}
}

func FuzzWanted(f *testing.F) {
	f.Add("/lib/a.ko.gz|b|fs-[a-c]\n/lib/b.ko||c-*\n", "fs-a")
	f.Fuzz(func(t *testing.T, list, name string) {
		all := parseLate(list)
		for _, file := range wanted(all, name) {
			if !slices.ContainsFunc(all, func(l late) bool { return l.path == file }) {
				t.Errorf("wanted(%q) gives %q, which is not in the list", name, file)
			}
		}
	})
}
