package hypervisor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"bield/internal/process"
	"bield/internal/spec"
)

type driver string

func (driver) Start(context.Context, Machine) (VM, error) { return nil, errors.ErrUnsupported }
func (driver) Adopt(context.Context, string, process.ID) (VM, error) {
	return nil, errors.ErrUnsupported
}

func TestChoose(t *testing.T) {
	const soft = "/dev/kvm is KVM in software (kvm_pvm)"
	none := errors.New("cloud-hypervisor is not installed: get it")
	for name, c := range map[string]struct {
		asked    spec.HypervisorKind
		kvm      string // why there is none
		ch, qemu error
		want     driver
		says     string
	}{
		"all is there":           {spec.HypervisorAuto, "", nil, nil, "ch", "CH 52.0 with KVM"},
		"no cloud-hypervisor":    {spec.HypervisorAuto, "", none, nil, "qemu", "QEMU 7.2 with KVM: cloud-hypervisor is not installed"},
		"no KVM":                 {spec.HypervisorAuto, soft, nil, nil, "tcg", "QEMU 7.2 without KVM: " + soft},
		"QEMU by name":           {spec.HypervisorQEMU, "", nil, nil, "qemu", "as asked for"},
		"by name without KVM":    {spec.HypervisorCloudHypervisor, soft, nil, nil, "", soft},
		"by name, not installed": {spec.HypervisorCloudHypervisor, "", none, nil, "", "get it; or write `hypervisor: auto`"},
		"nothing":                {spec.HypervisorAuto, "", none, errors.New("QEMU is not installed"), "", "get it; QEMU is not installed"},
		"nothing, and no KVM":    {spec.HypervisorAuto, soft, nil, errors.New("QEMU is not installed"), "", "with KVM alone: " + soft + "; QEMU is not installed"},
	} {
		find := func(says string, err error) func(context.Context) (string, error) {
			return func(context.Context) (string, error) { return says, err }
		}
		h := Host{
			KVM: func() (bool, string) { return c.kvm == "", c.kvm },
			Programs: []Program{
				{Kind: spec.HypervisorCloudHypervisor, Driver: driver("ch"), Find: find("CH 52.0", c.ch)},
				{Kind: spec.HypervisorQEMU, Driver: driver("qemu"), WithoutKVM: driver("tcg"), Find: find("QEMU 7.2", c.qemu)},
			},
		}
		choice, err := h.Choose(t.Context(), c.asked)
		says := choice.Why
		if err != nil {
			says = err.Error()
		}
		if !strings.Contains(says, c.says) || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", name, says, err)
		}
		if got, err := h.Driver(choice); c.want != "" && (got != c.want || err != nil) {
			t.Errorf("%s: driver %v, %v", name, got, err)
		}
	}
}

func TestNoDriver(t *testing.T) {
	h := Host{Programs: []Program{{Kind: spec.HypervisorCloudHypervisor, Driver: driver("ch")}}}
	for _, c := range []Choice{{Kind: "firecracker", KVM: true}, {Kind: spec.HypervisorCloudHypervisor}} {
		if _, err := h.Driver(c); err == nil {
			t.Errorf("a driver for %+v", c)
		}
	}
}
