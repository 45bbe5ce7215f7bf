package reconcile

import (
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"

	"bield/internal/plan"
	"bield/internal/spec"
)

// metrics counts what the engine does; what is there now is looked at when
// somebody asks. Labels hold kinds of steps, states, and VMs of the applied
// spec: nothing that a guest can make more of.
type metrics struct {
	registry   *prometheus.Registry
	boot       prometheus.Histogram
	stepTime   *prometheus.HistogramVec
	steps      *prometheus.CounterVec
	stepErrors *prometheus.CounterVec

	mu    sync.Mutex
	boots map[string]time.Time // when the VMM was started of VMs that boot
}

func newMetrics(e *Engine) *metrics {
	kind := []string{"kind"}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		boot: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bield_boot_seconds", Help: "Time from the start of the VMM until a command has run over SSH.",
			Buckets: []float64{0.25, 0.5, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60, 120, 180},
		}),
		stepTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bield_step_seconds", Help: "Time that steps took, failed ones as well, by kind of step.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 180, 600},
		}, kind),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bield_steps_total", Help: "Steps that were carried out, failed ones as well, by kind of step.",
		}, kind),
		stepErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bield_step_errors_total", Help: "Steps that failed, by kind of step.",
		}, kind),
		boots: map[string]time.Time{},
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bield_build_info", Help: "The daemon that answers; always 1.",
		ConstLabels: prometheus.Labels{"version": e.Version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	m.registry.MustRegister(m.boot, m.stepTime, m.steps, m.stepErrors, build, newHostCollector(e),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Metrics gathers the engine's metrics.
func (e *Engine) Metrics() prometheus.Gatherer { return e.metrics.registry }

// stepBegins notes when a VM begins to boot.
func (m *metrics) stepBegins(step plan.Step, at time.Time) {
	if step.Kind == plan.StartVMM {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.boots[step.VM] = at
	}
}

// stepOver counts a step, and a boot when it was the last of one.
func (m *metrics) stepOver(step plan.Step, elapsed time.Duration, err error) {
	kind := string(step.Kind)
	m.steps.WithLabelValues(kind).Inc()
	m.stepTime.WithLabelValues(kind).Observe(elapsed.Seconds())
	if err != nil {
		m.stepErrors.WithLabelValues(kind).Inc()
	} else {
		m.stepErrors.WithLabelValues(kind) // that it can be seen to be 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	began, boots := m.boots[step.VM]
	if boots && step.Kind == plan.AwaitReady && err == nil {
		m.boot.Observe(time.Since(began).Seconds())
	}
	if step.Kind != plan.StartVMM || err != nil {
		delete(m.boots, step.VM)
	}
}

// countRestart counts a restart of a VM that ended by itself.
func (e *Engine) countRestart(m *machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.restarts++
}

// hostCollector tells what is there at the moment.
type hostCollector struct {
	e                                                      *Engine
	vms, restarts, memory, memoryLimit, images, stateSpace *prometheus.Desc
}

func newHostCollector(e *Engine) *hostCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bield_"+name, help, labels, nil)
	}
	return &hostCollector{
		e:        e,
		vms:      desc("vms", "VMs by state.", "state"),
		restarts: desc("restarts_total", "Restarts of a VM that ended by itself.", "vm"),
		memory: desc("vm_memory_bytes", "Memory that a running VM's processes hold: of its VMM all, the guest's memory included; "+
			"of its virtiofsds together what is not the guest's memory.", "vm", "part"),
		memoryLimit: desc("vm_memory_limit_bytes", "Memory that a VM's guest may have.", "vm"),
		images:      desc("images", "Images in the store."),
		stateSpace:  desc("state_free_bytes", "Free space of the file system that holds the state folder."),
	}
}

// Describe implements prometheus.Collector.
func (c *hostCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.vms, c.restarts, c.memory, c.memoryLimit, c.images, c.stateSpace} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *hostCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	states := map[spec.State]int{}
	for _, state := range spec.States() {
		states[state] = 0
	}
	for _, vm := range c.e.list() {
		states[vm.State]++
		gauge(c.memoryLimit, float64(vm.MemoryMiB)*(1<<20), vm.Name)
		out <- prometheus.MustNewConstMetric(c.restarts, prometheus.CounterValue, float64(c.e.restarts(vm.Name)), vm.Name)
	}
	for state, n := range states {
		gauge(c.vms, float64(n), string(state))
	}
	for name, held := range c.e.held() {
		gauge(c.memory, float64(held.vmm), name, "vmm")
		gauge(c.memory, float64(held.virtiofsd), name, "virtiofsd")
	}
	if stored, err := c.e.images.List(); err == nil {
		gauge(c.images, float64(len(stored)))
	}
	var fs unix.Statfs_t
	if unix.Statfs(c.e.host().StateDir, &fs) == nil {
		gauge(c.stateSpace, float64(fs.Bavail)*float64(fs.Frsize))
	}
}

func (e *Engine) restarts(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m, ok := e.vms[name]; ok {
		return m.restarts
	}
	return 0
}
