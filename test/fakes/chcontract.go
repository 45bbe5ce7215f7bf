package fakes

import (
	"bytes"
	_ "embed" // the API's description
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

//go:embed testdata/cloud-hypervisor-v53.yaml
var chDescription []byte

// ContractCode is the exit code of a fake cloud-hypervisor that was asked for, or
// was about to say, what the API's description does not have.
const ContractCode = 86

// contract is the description of the API.
type contract struct{ router routers.Router }

func newContract() (contract, error) {
	document, err := openapi3.NewLoader().LoadFromData(chDescription)
	if err != nil {
		return contract{}, fmt.Errorf("the API's description: %w", err)
	}
	router, err := legacy.NewRouter(document)
	return contract{router}, err
}

// break ends the program with a word on what is wrong.
func breakContract(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "contract: "+format+"\n", args...)
	os.Exit(ContractCode)
}

// request finds the request in the description, and checks it.
func (c contract) request(r *http.Request, body []byte) *openapi3filter.RequestValidationInput {
	request := r.Clone(r.Context())
	request.URL = &url.URL{Scheme: "http", Host: "localhost", Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	request.Body = io.NopCloser(bytes.NewReader(body))
	route, parameters, err := c.router.FindRoute(request)
	if err != nil {
		breakContract("%s %s: %v", r.Method, r.URL, err)
	}
	input := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: parameters, Route: route,
		Options: &openapi3filter.Options{RejectWhenRequestBodyNotSpecified: true, IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
		breakContract("%s %s: %v", r.Method, r.URL, err)
	}
	if r.URL.RawQuery != "" {
		breakContract("%s %s: a query", r.Method, r.URL)
	}
	return input
}

// answer checks an answer. An empty body has no type.
func (c contract) answer(to *openapi3filter.RequestValidationInput, status int, header http.Header, body []byte) {
	input := &openapi3filter.ResponseValidationInput{RequestValidationInput: to, Status: status, Header: header, Options: to.Options}
	input.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(to.Request.Context(), input); err != nil {
		breakContract("answer %d to %s: %v", status, to.Request.URL.Path, err)
	}
	if status == http.StatusNoContent && len(body) > 0 {
		breakContract("answer %d to %s has a body", status, to.Request.URL.Path)
	}
}
