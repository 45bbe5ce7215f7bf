package obstacles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Kind is whose firewall an Opening is in.
type Kind string

// The firewalls that have a place for rules of others.
const (
	Docker    Kind = "Docker"
	Firewalld Kind = "firewalld"
)

// Opening is a way for guests through another firewall. It lasts until it is
// closed, or that firewall is set up anew.
type Opening struct {
	Kind   Kind   `json:"kind"`
	Bridge string `json:"bridge"`
	// Program is the iptables that wrote the chain: "iptables-nft",
	// "iptables-legacy" or "iptables".
	Program string `json:"program,omitempty"`
	// Mark stands as a comment at each rule.
	Mark string `json:"mark,omitempty"`
}

const (
	dockerChain = "DOCKER-USER"
	// trusted is firewalld's zone that lets everything pass: what guests may is
	// then bield's own rules' alone to say.
	trusted = "trusted"
	// programTime is how long a firewall's program may take, lockTime how long
	// iptables waits for others of its kind, in seconds.
	programTime = 20 * time.Second
	lockTime    = "10"
)

// Openings are those that the obstacles leave room for, each once, and the
// obstacles that have none.
func (f Found) Openings(ctx context.Context, g Guests, mark string) (all []Opening, rest []Obstacle) {
	for _, o := range f.Obstacles {
		opening, ok := o.opening(ctx, g, mark)
		switch {
		case !ok:
			rest = append(rest, o)
		case !slices.Contains(all, opening):
			all = append(all, opening)
		}
	}
	return all, rest
}

func (o Obstacle) opening(ctx context.Context, g Guests, mark string) (Opening, bool) {
	switch {
	case o.base.hook == "forward" && o.table.name == "filter" && o.table.chains[dockerChain] != nil:
		program := o.iptables(ctx)
		return Opening{Kind: Docker, Bridge: g.Bridge, Program: program, Mark: mark}, program != ""
	case o.byFirewalld():
		_, err := exec.LookPath("firewall-cmd")
		return Opening{Kind: Firewalld, Bridge: g.Bridge}, err == nil
	}
	return Opening{}, false
}

func (o Obstacle) byFirewalld() bool {
	return o.table.name == "firewalld" || o.table.hasPrefix("FWD_") || o.table.hasPrefix("FWDI_") || o.table.hasPrefix("IN_public")
}

// iptables is the program that speaks to the kernel as the table's owner does,
// or "".
func (o Obstacle) iptables(ctx context.Context) string {
	variant, ofLegacy := "iptables-nft", false
	if o.table.command != "nft" {
		variant, ofLegacy = "iptables-legacy", true
	}
	for _, program := range []string{variant, "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			continue
		}
		if program == variant || legacy(ctx, program) == ofLegacy {
			return program
		}
	}
	return ""
}

// String names the place.
func (p Opening) String() string {
	if p.Kind == Docker {
		return "Docker's chain " + dockerChain
	}
	return "firewalld's zone " + trusted
}

// rules are those of an opening in Docker's chain.
func (p Opening) rules() [][]string {
	mark := []string{"-m", "comment", "--comment", p.Mark, "-j", "ACCEPT"}
	return [][]string{
		append([]string{dockerChain, "-i", p.Bridge}, mark...),
		append([]string{dockerChain, "-o", p.Bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"}, mark...),
	}
}

// Open lets guests through. What is open stays so.
func (p Opening) Open(ctx context.Context) error {
	switch p.Kind {
	case Docker:
		for _, rule := range p.rules() {
			if err := p.insert(ctx, rule); err != nil {
				return fmt.Errorf("open %s: %w", p, err)
			}
		}
		return nil
	case Firewalld:
		if _, err := run(ctx, "firewall-cmd", "--zone="+trusted, "--query-interface="+p.Bridge); err == nil {
			return nil
		}
		if _, err := run(ctx, "firewall-cmd", "--zone="+trusted, "--add-interface="+p.Bridge); err != nil {
			return fmt.Errorf("open %s: %w", p, err)
		}
		return nil
	}
	return fmt.Errorf("open a way through the firewall: %q is not known", p.Kind)
}

func (p Opening) insert(ctx context.Context, rule []string) error {
	there, err := p.iptables(ctx, "-C", rule)
	if err != nil || there {
		return err
	}
	done, err := p.iptables(ctx, "-I", rule)
	if err == nil && !done {
		err = errors.New("the chain is gone")
	}
	return err
}

// Close takes an opening back. What is closed, or gone with its firewall, is no
// error.
func (p Opening) Close(ctx context.Context) error {
	switch p.Kind {
	case Docker:
		for _, rule := range p.rules() {
			if err := p.delete(ctx, rule); err != nil {
				return fmt.Errorf("close %s: %w", p, err)
			}
		}
		return nil
	case Firewalld:
		return p.closeFirewalld(ctx)
	}
	return fmt.Errorf("close a way through the firewall: %q is not known", p.Kind)
}

// maxCopies bounds how often a rule is looked for: Docker's own restarts, or
// somebody, may have doubled it.
const maxCopies = 100

func (p Opening) delete(ctx context.Context, rule []string) error {
	for range maxCopies {
		if done, err := p.iptables(ctx, "-D", rule); err != nil || !done {
			return err
		}
	}
	return fmt.Errorf("it has over %d of bield's rules: `iptables -F %s`", maxCopies, dockerChain)
}

// iptables reports whether the rule was there to be done something with: exit
// status 1 says that it, or its chain, is not.
func (p Opening) iptables(ctx context.Context, verb string, rule []string) (bool, error) {
	code, err := run(ctx, p.Program, append([]string{"-w", lockTime, "-t", "filter", verb}, rule...)...)
	if code == 1 {
		return false, nil
	}
	return err == nil, err
}

// closeFirewalld asks first: firewalld may be stopped, or know the bridge no more.
func (p Opening) closeFirewalld(ctx context.Context) error {
	// Exit statuses of firewall-cmd(1): 1 says no, 252 that it does not run.
	const no, notRunning = 1, 252
	code, err := run(ctx, "firewall-cmd", "--zone="+trusted, "--query-interface="+p.Bridge)
	switch {
	case code == no, code == notRunning, errors.Is(err, exec.ErrNotFound):
		return nil
	case err == nil:
		_, err = run(ctx, "firewall-cmd", "--zone="+trusted, "--remove-interface="+p.Bridge)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", p, err)
	}
	return nil
}

// run returns a program's exit status, and an error with what it says where
// that is not 0.
func run(ctx context.Context, program string, args ...string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = time.Second
	var says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &says, &says
	err := cmd.Run()
	if ctx.Err() != nil {
		return -1, fmt.Errorf("%s does not answer: %w", program, ctx.Err())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		line, _, _ := strings.Cut(strings.TrimSpace(says.String()), "\n")
		return exit.ExitCode(), fmt.Errorf("%s %s: %w: %.200s", program, strings.Join(args, " "), err, line)
	}
	return 0, err
}
