// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// Certificates of the cluster beside those that its programs make for themselves, in the folder
// pki: a .crt and a .key of each.
const (
	authorityName = "authority"      // signs the others
	kubeletName   = "kubelet"        // the kubelet's, as a server
	frontName     = "front-proxy"    // the API server's, as a client of servers that it forwards requests to
	metricsName   = "metrics-server" // metrics-server's, as a server
)

// pair is a certificate and its key.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// pki is the path of a file of a certificate.
func (c *cluster) pki(file string) string { return c.path("pki/" + file) }

// writeCertificates makes an authority and what it signs, so that every client can verify its
// server.
func (c *cluster) writeCertificates(t *testing.T) {
	t.Helper()
	server, client := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	authority := c.writePair(t, authorityName, nil, &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	c.writePair(t, kubeletName, authority, &x509.Certificate{ExtKeyUsage: server, IPAddresses: []net.IP{net.ParseIP(nodeAddress)}})
	c.writePair(t, frontName, authority, &x509.Certificate{ExtKeyUsage: client})
	c.writePair(t, metricsName, authority, &x509.Certificate{ExtKeyUsage: server, DNSNames: []string{"metrics-server.kube-system.svc"}})
}

// writePair makes a pair and writes its files. Without a signer it signs itself.
func (c *cluster) writePair(t *testing.T, name string, signer *pair, template *x509.Certificate) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &pair{template, key}
	if signer == nil {
		signer = made
	}
	now := time.Now()
	template.SerialNumber, template.Subject = big.NewInt(now.UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.AddDate(1, 0, 0)
	certificate, err := x509.CreateCertificate(rand.Reader, template, signer.certificate, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, "pki/"+name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	c.write(t, "pki/"+name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return made
}

// readPKI reads a file of a certificate.
func (c *cluster) readPKI(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(c.pki(file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
