// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
)

// hosts are the registries that Serve answers for.
func hosts() []string { return []string{"ghcr.io", "registry.k8s.io", "registry-1.docker.io"} }

// Registry answers over TLS for the registries that the images' names call for.
type Registry struct {
	server *http.Server
	// CA is the certificate to trust, in PEM.
	CA []byte
}

// Hosts gives the lines for /etc/hosts that lead the images' registries to address.
func Hosts(address string) string {
	return address + " " + strings.Join(hosts(), " ") + "\n"
}

// Serve fills a registry in memory with images and answers on l until Close.
func Serve(ctx context.Context, l net.Listener, images map[string]v1.Image) (*Registry, error) {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if err := fill(ctx, handler, images); err != nil {
		return nil, err
	}
	certificate, ca, err := certify()
	if err != nil {
		return nil, err
	}
	r := &Registry{CA: ca, server: &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}}
	go r.serve(l)
	return r, nil
}

func (r *Registry) serve(l net.Listener) {
	// Ends with ErrServerClosed, by Close.
	_ = r.server.ServeTLS(l, "", "")
}

// Close ends the answering.
func (r *Registry) Close() error { return r.server.Close() }

// fill pushes the images into handler, layer by layer as a client does.
func fill(ctx context.Context, handler http.Handler, images map[string]v1.Image) error {
	for ref, image := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			return err
		}
		if err := push(ctx, handler, tag, image); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return nil
}

func push(ctx context.Context, handler http.Handler, tag name.Tag, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(image)
	if err != nil {
		return err
	}
	for _, layer := range append(layers, config) {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		blob, err := layer.Compressed()
		if err != nil {
			return err
		}
		err = send(ctx, handler, http.MethodPost, "/v2/"+tag.RepositoryStr()+"/blobs/uploads/?digest="+digest.String(), "", blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			return err
		}
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	media, err := image.MediaType()
	if err != nil {
		return err
	}
	return send(ctx, handler, http.MethodPut, "/v2/"+tag.RepositoryStr()+"/manifests/"+tag.TagStr(),
		string(media), bytes.NewReader(manifest))
}

func send(ctx context.Context, handler http.Handler, method, target, media string, body io.Reader) error {
	request := httptest.NewRequestWithContext(ctx, method, target, body)
	if media != "" {
		request.Header.Set("Content-Type", media)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusCreated {
		return fmt.Errorf("%s %s: %d %s", method, target, answer.Code, answer.Body)
	}
	return nil
}

// certify makes a certificate for the registries' names that is its own authority.
func certify() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "cloister tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: hosts(), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
