// Command envoy_oracle says how opa-envoy-plugin reads a policy's result.
//
// In: JSON lines {"name": …, "result": <any JSON>} on stdin. Out: one JSON line each on stdout, with what the plugin's own getters
// return. They are called in the order and for the outcomes in which the plugin's Check calls them: headers and dynamic metadata for
// every object, the request's edits for an allow only, body and status for a deny only. Names are sorted, because the plugin walks
// Go maps, whose order is random; values of one name keep their order.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/open-policy-agent/opa-envoy-plugin/envoyauth"
)

type line struct {
	Name   string `json:"name"`
	Result any    `json:"result"`
}

type pair [2]string

type answer struct {
	Name                   string         `json:"name"`
	Error                  string         `json:"error,omitempty"`
	Allowed                bool           `json:"allowed"`
	Status                 int            `json:"status,omitempty"`
	Body                   string         `json:"body,omitempty"`
	Headers                []pair         `json:"headers,omitempty"`
	RequestHeadersToRemove []string       `json:"request_headers_to_remove,omitempty"`
	ResponseHeadersToAdd   []pair         `json:"response_headers_to_add,omitempty"`
	QueryToSet             []pair         `json:"query_to_set,omitempty"`
	QueryToRemove          []string       `json:"query_to_remove,omitempty"`
	Metadata               map[string]any `json:"metadata,omitempty"`
}

func main() {
	in := json.NewDecoder(os.Stdin)
	in.UseNumber() // as the plugin gets them from OPA
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for {
		var l line
		if err := in.Decode(&l); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		a, failed := read(l.Result)
		if failed != "" {
			a = answer{Error: failed} // Check drops everything on the first error
		}
		a.Name = l.Name
		if err := out.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
}

// read returns what Check would answer, or the name of the part it fails on.
func read(decision any) (a answer, failed string) {
	result := &envoyauth.EvalResult{Decision: decision}
	var err error
	if a.Allowed, err = result.IsAllowed(); err != nil {
		return a, "allowed"
	}
	if _, object := decision.(map[string]any); !object {
		return a, ""
	}
	headers, err := result.GetResponseEnvoyHeaderValueOptions()
	if err != nil {
		return a, "headers"
	}
	a.Headers = fields(headers)
	metadata, err := result.GetDynamicMetadata()
	if err != nil {
		return a, "dynamic_metadata"
	}
	a.Metadata = metadata.AsMap()
	if a.Allowed {
		return edits(result, a)
	}
	if a.Body, err = result.GetResponseBody(); err != nil {
		return a, "body"
	}
	status, err := result.GetResponseEnvoyHTTPStatus()
	if err != nil {
		return a, "http_status"
	}
	a.Status = int(status.GetCode())
	return a, ""
}

func edits(result *envoyauth.EvalResult, a answer) (answer, string) {
	var err error
	if a.RequestHeadersToRemove, err = result.GetRequestHTTPHeadersToRemove(); err != nil {
		return a, "request_headers_to_remove"
	}
	added, err := result.GetResponseHTTPHeadersToAdd()
	if err != nil {
		return a, "response_headers_to_add"
	}
	a.ResponseHeadersToAdd = fields(added)
	if a.QueryToRemove, err = result.GetRequestQueryParametersToRemove(); err != nil {
		return a, "query_parameters_to_remove"
	}
	set, err := result.GetRequestQueryParametersToSet()
	if err != nil {
		return a, "query_parameters_to_set"
	}
	for _, parameter := range set {
		a.QueryToSet = append(a.QueryToSet, pair{parameter.GetKey(), parameter.GetValue()})
	}
	sort(a.QueryToSet)
	return a, ""
}

func fields(options []*core.HeaderValueOption) (pairs []pair) {
	for _, option := range options {
		pairs = append(pairs, pair{option.GetHeader().GetKey(), option.GetHeader().GetValue()})
	}
	sort(pairs)
	return pairs
}

func sort(pairs []pair) {
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a[0], b[0]) })
}
