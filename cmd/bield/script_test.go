package main

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"bield/test/fakes"
	"bield/test/host"
)

var updateScripts = flag.Bool("update", false, "write what `cmp` compares anew")

// TestScripts runs testdata/script; its README says what scripts can do.
func TestScripts(t *testing.T) {
	host.Require(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		WorkdirRoot:        host.Base(),
		UpdateScripts:      *updateScripts,
		RequireUniqueNames: true,
		Cmds:               commands(),
		Setup:              setUp,
	})
}

type hostKey struct{}

func hostOf(ts *testscript.TestScript) *host.Host {
	h, ok := ts.Value(hostKey{}).(*host.Host)
	if !ok {
		ts.Fatalf("no host was set up")
	}
	return h
}

// scriptTimeout is when all that a script started is killed, so that it fails
// where it stands. A script takes a second or two.
const scriptTimeout = time.Minute

// setUp makes a script's machine. The thread belongs to the script from here
// on, and ends with it: all that the script starts is in its namespaces.
func setUp(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return fmt.Errorf("%T is no testing.TB", env.T())
	}
	runtime.LockOSThread()
	h, err := host.New(env.WorkDir)
	if err != nil {
		return err
	}
	late := time.AfterFunc(scriptTimeout, h.KillAll)
	env.Defer(func() {
		late.Stop()
		h.End(t)
	})
	env.Values[hostKey{}] = h
	env.Setenv("QEMU", fakes.QEMU())
	for key, value := range h.Environment() {
		env.Setenv(key, value)
	}
	return nil
}
