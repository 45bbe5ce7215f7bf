package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
	"bield/internal/spec"
)

// Who calls: root, a member of the group whose VM it is, another member, and
// somebody of whom the kernel does not say who it is.
const owner, member = 4711, 4712

func declared(t *testing.T) spec.Host {
	t.Helper()
	dir := t.TempDir()
	host := spec.DefaultHost()
	host.StateDir = filepath.Join(t.TempDir(), "state")
	host.VMs = []spec.VM{{
		Name: "one", IP: netip.MustParseAddr("192.168.83.2"), MAC: spec.DerivedMAC("one"), VCPU: 1, MemoryMiB: 256,
		Shares:     []spec.Share{{Tag: spec.WorkspaceTag, Source: dir, MountPoint: spec.WorkspaceMount}},
		User:       spec.User{Name: "dev", ID: spec.ID{UID: owner, GID: owner}, Home: "/home/dev", Shell: "/bin/bash"},
		Hypervisor: spec.HypervisorAuto, Init: spec.InitBield, Restart: spec.RestartNever, StopTimeout: spec.DefaultStopTimeout,
	}}
	return host
}

// permission is what a call comes to: its HTTP status, where a stream's error
// counts as what it says.
func permission(w *httptest.ResponseRecorder) string {
	body := w.Body.String()
	switch {
	case w.Code == http.StatusForbidden, strings.Contains(body, reconcile.ErrForbidden.Error()):
		return "forbidden"
	case w.Code == http.StatusTooManyRequests:
		return "too many"
	}
	return "allowed"
}

// TestWhoMayCall holds every route against every kind of caller. A route that is
// not in the table fails: say who may call it.
func TestWhoMayCall(t *testing.T) {
	needRoot(t) // the state folder must be root's
	const yes, no = "allowed", "forbidden"
	host := declared(t)
	text, err := json.Marshal(host)
	if err != nil {
		t.Fatal(err)
	}
	// Each request is refused for another reason, if it may be made at all: nothing
	// is started here.
	apply := `{"host":` + string(text) + `,"origin":"/etc/bield/bield.yaml"}`
	named := func(name string) string {
		return strings.Replace(apply, `"origin"`, `"names":["`+name+`"],"origin"`, 1)
	}
	// What is refused to a member is the VM itself.
	others := map[string]string{"POST " + api.PathUp: named("one"), "POST " + api.PathStart: `{"names":["one"]}`}
	want := map[string]struct {
		path, body          string
		root, owner, member string
	}{
		"GET " + api.PathVersion:      {"/v1/version", "", yes, yes, yes},
		"GET " + api.PathVMs:          {"/v1/vms", "", yes, yes, yes},
		"GET " + api.PathVM:           {"/v1/vms/one", "", yes, yes, no},
		"GET " + api.PathEvents:       {"/v1/events", "", yes, yes, yes},
		"GET " + api.PathMetrics:      {"/metrics", "", yes, yes, yes},
		"POST " + api.PathUp:          {"/v1/up", named("nobody"), yes, yes, no},
		"POST " + api.PathStart:       {"/v1/start", `{"names":["nobody"]}`, yes, yes, no},
		"POST " + api.PathDown:        {"/v1/down", `{"names":["one"]}`, yes, yes, no},
		"POST " + api.PathPlan:        {"/v1/plan", apply, yes, yes, no},
		"POST " + api.PathApply:       {"/v1/apply", apply, yes, yes, no},
		"POST " + api.PathWait:        {"/v1/vms/one/wait", "", yes, yes, no},
		"POST " + api.PathAccess:      {"/v1/vms/one/access", "", yes, yes, no},
		"POST " + api.PathVerify:      {"/v1/vms/one/verify", "", yes, yes, no},
		"GET " + api.PathLogs:         {"/v1/vms/one/logs", "", yes, yes, no},
		"GET " + api.PathEgressCheck:  {"/v1/vms/one/egress/check?target=example.org", "", yes, yes, no},
		"GET " + api.PathEgressLog:    {"/v1/vms/one/egress/log", "", yes, yes, no},
		"GET " + api.PathImages:       {"/v1/images", "", yes, yes, yes},
		"POST " + api.PathImages:      {"/v1/images", `{"image":{"mirror":"https://mirror.example.org"}}`, yes, no, no},
		"DELETE " + api.PathImage:     {"/v1/images/0123456789abcdef", "", yes, no, no},
		"POST " + api.PathImagesPrune: {"/v1/images/prune", `{}`, yes, no, no},
	}
	engine := newEngine(t)
	s := New(engine, "test", slog.New(slog.DiscardHandler), func() {})
	call := func(caller *reconcile.Caller, pattern, path, body string) *httptest.ResponseRecorder {
		method, _, _ := strings.Cut(pattern, " ")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if caller != nil {
			ctx = context.WithValue(ctx, callerKey{}, *caller)
		}
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body)))
		return w
	}
	root := reconcile.Caller{}
	if w := call(&root, "POST /v1/apply", "/v1/apply", apply); !strings.Contains(w.Body.String(), `"done":true`) || strings.Contains(w.Body.String(), `"error"`) {
		t.Fatalf("apply: %d %s", w.Code, w.Body)
	}
	for _, route := range s.table() {
		row, there := want[route.pattern]
		if !there {
			t.Errorf("%s is not in the table: say who may call it", route.pattern)
			continue
		}
		delete(want, route.pattern)
		for _, who := range []struct {
			name   string
			caller *reconcile.Caller
			want   string
		}{
			{"root", &root, row.root}, {"owner", &reconcile.Caller{UID: owner, GID: owner}, row.owner},
			{"member", &reconcile.Caller{UID: member, GID: member}, row.member}, {"nobody that is known", nil, no},
		} {
			body := row.body
			if other, there := others[route.pattern]; there && who.name == "member" {
				body = other
			}
			w := call(who.caller, route.pattern, row.path, body)
			if got := permission(w); got != who.want || w.Code == http.StatusNotFound && strings.Contains(w.Body.String(), "page not found") || w.Code == http.StatusMethodNotAllowed {
				t.Errorf("%s by %s: %s, want %s: %d %.300s", route.pattern, who.name, got, who.want, w.Code, w.Body)
			}
		}
	}
	for pattern := range want {
		t.Errorf("the table has %s, which is no route", pattern)
	}
	if _, err := os.Stat(filepath.Join(host.StateDir, "_bield")); err != nil {
		t.Errorf("nothing was applied: %v", err)
	}
}
