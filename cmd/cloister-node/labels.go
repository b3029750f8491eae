// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// account is where a pod finds its service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// api changes one node through the cluster's API server. It knows one request, a merge patch of the
// node's labels; client-go would bring the whole API along.
type api struct {
	client *http.Client
	url    string // of the node
	token  string // file
}

// inCluster returns the API server that the kubelet names in a pod's environment. The certificate
// is the cluster's own authority; the system's are not asked.
func inCluster(node string) (*api, error) {
	server, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if server == "" || node == "" {
		return nil, fmt.Errorf("KUBERNETES_SERVICE_HOST %q, NODE_NAME %q: want both, as in a pod of the DaemonSet", server, node)
	}
	certificates := x509.NewCertPool()
	data, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("the service account's certificate: %w", err)
	}
	if !certificates.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s/ca.crt has no certificate", account)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificates, MinVersion: tls.VersionTLS12}}
	return &api{
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		url:    "https://" + net.JoinHostPort(server, port) + "/api/v1/nodes/" + url.PathEscape(node),
		token:  filepath.Join(account, "token"),
	}, nil
}

// Label changes labels of the node; an empty value takes one away. A merge patch leaves other
// labels alone, and null removes one. It is idempotent.
func (a *api) Label(ctx context.Context, labels map[string]string) error {
	values := map[string]any{}
	for name, value := range labels {
		values[name] = value
		if value == "" {
			values[name] = nil
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": values}})
	if err != nil {
		return err
	}
	// Read for each request: the kubelet renews the token while the pod runs.
	token, err := os.ReadFile(a.token)
	if err != nil {
		return fmt.Errorf("the service account's token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, a.url, bytes.NewReader(patch))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("label the node: %w", err)
	}
	defer answer.Body.Close()
	// Bounded, since the answer is a whole node object and only its status matters.
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("label the node: %w", err)
	}
	// Forbidden means that the service account lacks the right to patch nodes.
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("label the node: the API server says %s: %.500s", answer.Status, text)
	}
	return nil
}

// labelValue is the version that `cloister version` says, as a label's value may be. Kubernetes
// takes 63 characters of letters, digits, dots, dashes and underscores, with letters or digits at
// the ends.
func labelValue(said string) string {
	fields := strings.Fields(said)
	if len(fields) < 2 {
		return "unknown"
	}
	value := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, fields[1])
	return strings.Trim(value[:min(len(value), 63)], "._-")
}
