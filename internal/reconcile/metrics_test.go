package reconcile

import (
	"errors"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"bield/internal/plan"
	"bield/internal/spec"
)

func gather(t *testing.T, e *Engine) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := e.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// busyEngine has something to tell in every metric of its own.
func busyEngine(t *testing.T) *Engine {
	t.Helper()
	e := testEngine(t)
	e.applied.Host = testHost(t.TempDir(), "alpha", "beta")
	e.countRestart(e.machine("alpha"))
	e.setState(e.machine("beta"), spec.StateFailed, "why")
	began := time.Now().Add(-1500 * time.Millisecond)
	for _, s := range []struct {
		kind plan.Kind
		err  error
	}{{plan.MakeKeys, nil}, {plan.StartVMM, nil}, {plan.AwaitReady, nil}, {plan.MakeKeys, errors.New("no room")}} {
		step := plan.Step{Kind: s.kind, VM: "alpha"}
		e.metrics.stepBegins(step, began)
		e.stepOver(step, string(s.kind), began, s.err)
	}
	return e
}

func TestMetrics(t *testing.T) {
	got := gather(t, busyEngine(t))
	for name, want := range map[string]map[string]float64{
		"bield_vms":                   {"down": 1, "starting": 0, "running": 0, "stopping": 0, "failed": 1, "restarting": 0},
		"bield_restarts_total":        {"alpha": 1, "beta": 0},
		"bield_steps_total":           {"keys": 2, "vmm": 1, "ready": 1},
		"bield_step_errors_total":     {"keys": 1, "vmm": 0, "ready": 0},
		"bield_vm_memory_limit_bytes": {"alpha": 1 << 30, "beta": 1 << 30},
	} {
		values := map[string]float64{}
		for _, m := range got[name].GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		if len(values) != len(want) {
			t.Errorf("%s: %v, want %v", name, values, want)
		}
		for label, value := range want {
			if values[label] != value {
				t.Errorf("%s: %v, want %v", name, values, want)
			}
		}
	}
	boot := got["bield_boot_seconds"].GetMetric()[0].GetHistogram()
	if boot.GetSampleCount() != 1 || boot.GetSampleSum() < 1.5 || boot.GetSampleSum() > 60 {
		t.Errorf("boots: %v", boot)
	}
	if free := got["bield_state_free_bytes"].GetMetric(); len(free) != 1 || free[0].GetGauge().GetValue() < 1 {
		t.Errorf("free space: %v", free)
	}
}

// TestBootsThatAreNone: a VM that runs already is ready at once, and one that
// fails has not booted.
func TestBootsThatAreNone(t *testing.T) {
	e := testEngine(t)
	ready := plan.Step{Kind: plan.AwaitReady, VM: "a"}
	e.stepOver(ready, "ready", time.Now(), nil)
	e.metrics.stepBegins(plan.Step{Kind: plan.StartVMM, VM: "a"}, time.Now())
	e.stepOver(ready, "ready", time.Now(), errors.New("it hangs"))
	e.stepOver(ready, "ready", time.Now(), nil)
	if n := gather(t, e)["bield_boot_seconds"].GetMetric()[0].GetHistogram().GetSampleCount(); n != 0 {
		t.Errorf("%d boots", n)
	}
	if len(e.metrics.boots) != 0 {
		t.Errorf("remembered: %v", e.metrics.boots)
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	e := busyEngine(t)
	problems, err := testutil.GatherAndLint(e.Metrics())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	bad := promlint.NewWithMetricFamilies([]*dto.MetricFamily{{Name: new("bield_millis"), Type: dto.MetricType_COUNTER.Enum()}})
	if found, err := bad.Lint(); err != nil || len(found) == 0 {
		t.Errorf("promlint finds nothing wrong with anything: %v", err)
	}
}
