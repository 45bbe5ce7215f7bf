package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"bield/internal/spec"
)

func preset(name string) ([]spec.Target, error) {
	if name != "npm" {
		return nil, errors.New(name + " is no preset — write npm")
	}
	return []spec.Target{{Name: "mirror.corp.example", Port: 4873, Private: true, Preset: "npm"}}, nil
}

// egressOf reads a file whose VM a has some egress.
func egressOf(t *testing.T, host, own string) (spec.Egress, error) {
	t.Helper()
	env := newFakeHost().env()
	env.Preset = preset
	text := "vms: {a: {ip: 192.168.83.2, workspace: /home/alice/src/app" + own + "}}\n" + host
	h, err := Parse("f.yaml", []byte(text), env)
	if err != nil {
		return spec.Egress{}, err
	}
	return h.VMs[0].Egress, nil
}

func TestEgress(t *testing.T) {
	names := []spec.Target{{Name: "*.example.org"}, {Name: "mirror.corp.example", Port: 4873, Private: true, Preset: "npm"}, {Name: "example.com", Port: 8443}}
	const listed = `names: ["*.Example.org", npm, "example.com:8443"]`
	for _, c := range []struct {
		host, own string
		want      spec.Egress
	}{
		{"", "", spec.Egress{Mode: spec.EgressPublic}},
		{"egress: none", "", spec.Egress{Mode: spec.EgressNone}},
		{"egress: none", ", egress: open", spec.Egress{Mode: spec.EgressOpen}},
		{"egress: {mode: allowlist, " + listed + "}", "", spec.Egress{Mode: spec.EgressAllowlist, Names: names}},
		{"egress: {" + listed + "}", ", egress: allowlist", spec.Egress{Mode: spec.EgressAllowlist, Names: names}},
		{"egress: {allow: [git]}", ", egress: {mode: allowlist, names: [a.example], allow: []}",
			spec.Egress{Mode: spec.EgressAllowlist, Names: []spec.Target{{Name: "a.example"}}}},
	} {
		got, err := egressOf(t, c.host, c.own)
		if err != nil {
			t.Errorf("%s %s: %v", c.host, c.own, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s: %+v", c.host, c.own, got)
		}
	}
}

// TestEgressErrors: each says where it is and what to write.
func TestEgressErrors(t *testing.T) {
	for _, c := range []struct{ host, own, want string }{
		{"egress: closed", "", `f.yaml:2:9: egress.mode: "closed" is unknown — write open, public, allowlist or none`},
		{"", ", egress: closed", `vms.a.egress.mode: "closed" is unknown — write open`},
		{"egress: true", "", `egress: is the truth value true, but must be text — write for example allowlist`},
		{"egress: {mode: allowlist, names: [nmp]}", "", `f.yaml:2:35: egress.names[0]: nmp is no preset — write npm`},
		{"", `, egress: {names: [a.example]}`, "vms.a.egress.names: names count with the mode allowlist alone"},
		{"", `, egress: {mode: allowlist, names: [10.0.0.1]}`, "vms.a.egress.names: 10.0.0.1 is an address, and names are names — put it into `allow`"},
		{"egress: {allow: [192.168.83.7]}", "", "egress.allow: 192.168.83.7 is in the VMs' own subnet"},
		{"egress: {allow: [127.0.0.1:80]}", "", "egress.allow: 127.0.0.1:80 would be the guest itself"},
		{`egress: {allow: ["a.example:0"]}`, "", "has no port between 1 and 65535"},
		{`egress: {allow: ["*.com"]}`, "", "is all of a top-level domain"},
		{`egress: {allow: [10.0.0.1/8]}`, "", "write 10.0.0.0/8"},
		{`egress: {allow: [0.0.0.0/0]}`, "", "write `egress: open`"},
		{`egress: {allow: ["http://a.example"]}`, "", "has no port between"},
		{`egress: {allow: ["a..b"]}`, "", "is no name of a host"},
		{"hostPorts: [8080]", "", "hostPorts[0]: is the number 8080"},
		{"hostPorts: [tcp/080]", "", `hostPorts[0]: "tcp/080" is no port of the host — write tcp/8080 or udp/5353`},
	} {
		_, err := egressOf(t, c.host, c.own)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s:\n got %v\nwant %s", c.host, c.own, err, c.want)
		}
	}
}
