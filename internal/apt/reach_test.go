package apt

import (
	"net"
	"slices"
	"strings"
	"testing"
)

func TestServers(t *testing.T) {
	got := servers([]Source{
		{URI: "http://me:secret@mirror.test/debian"}, {URI: "https://mirror.test:8443/x"},
		{URI: "http://mirror.test/other"}, {URI: "file:///srv/mirror"}, {URI: "http://[2001:db8::1]/debian"},
	})
	want := []string{"[2001:db8::1]:80", "mirror.test:80", "mirror.test:8443"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProxied(t *testing.T) {
	for name, c := range map[string]struct {
		settings []Setting
		environ  []string
		want     bool
	}{
		"none":        {nil, []string{"HOME=/root", "http_proxy="}, false},
		"environment": {nil, []string{"HTTPS_PROXY=http://proxy.test"}, true},
		"apt":         {[]Setting{{Key: "Acquire::http::Proxy", Value: "http://proxy.test"}}, nil, true},
		"retries":     {[]Setting{{Key: "Acquire::Retries", Value: "3"}}, nil, false},
	} {
		if got := proxied(c.settings, c.environ); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestReach(t *testing.T) {
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	source := []Source{{URI: "http://" + listener.Addr().String() + "/debian"}}
	if err := Reach(t.Context(), source, nil); err != nil {
		t.Error(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Reach(t.Context(), source, nil); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
}
