// SPDX-License-Identifier: Apache-2.0

package labels_test

import (
	"fmt"

	"cloister/labels"
)

// One sandbox gets all its labels from one pair of categories: domains for its processes, file
// types for its files, and the same level on each of them.
func ExampleChoose() {
	own, err := labels.Parse("system_u:system_r:cloister_shim_t:s0-s0:c0.c1023") // the shim's label
	if err != nil {
		panic(err)
	}
	pair, err := labels.NewPair(945, 590) // normally drawn by package mcs, unique on the host
	if err != nil {
		panic(err)
	}
	chosen, err := labels.Choose(labels.Wish{}, own, labels.Own(true), labels.NewLevel(0, pair))
	if err != nil {
		panic(err)
	}
	fmt.Println("QEMU:     ", chosen.QEMU)
	fmt.Println("virtiofsd:", chosen.Virtiofsd)
	fmt.Println("disks:    ", chosen.Image)
	// Output:
	// QEMU:      system_u:system_r:cloister_qemu_t:s0:c590,c945
	// virtiofsd: system_u:system_r:cloister_virtiofsd_t:s0:c590,c945
	// disks:     system_u:object_r:cloister_image_t:s0:c590,c945
}

// A pair has two different categories; the lower one comes first.
func ExampleNewPair() {
	_, err := labels.NewPair(7, 7)
	fmt.Println(err)
	pair, err := labels.NewPair(1023, 7)
	fmt.Println(pair, pair.Rank(), err)
	// Output:
	// pair c7,c7: want two different categories: a single one is part of other pairs
	// c7,c1023 8155 <nil>
}
