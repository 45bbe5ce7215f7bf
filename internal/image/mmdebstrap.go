package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"bield/internal/apt"
)

// dpkgOptions leave out what no agent reads. They stay in the image, so that
// packages added later are as small. zsh's functions and the C.UTF-8 locale
// lie elsewhere and stay.
const dpkgOptions = `path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/lintian/*
`

// guestAptOptions are the image's own apt settings.
const guestAptOptions = `APT::Install-Recommends "false";
Acquire::Languages "none";
`

// aptOptions are for the build alone; the recipe removes them. Credentials are
// in files of the image's root, never on a command line.
func (b *builder) aptOptions(transport []apt.Setting) string {
	settings := append([]apt.Setting{
		{Key: "Dir::Etc::netrc", Value: filepath.Join(b.work(), "auth.conf")},
	}, transport...)
	var out strings.Builder
	for _, s := range settings {
		out.WriteString(s.String() + "\n")
	}
	return out.String()
}

// mmdebstrapArgs are the arguments that make a tree of the inputs. The mode
// "unshare" without a user namespace of its own is what mmdebstrap does for
// uid 0; that this uid 0 is not the host's is namespaced's work.
func mmdebstrapArgs(in Inputs, root, work string) []string {
	return []string{
		"--mode=unshare",
		"--variant=minbase",
		"--format=directory",
		"--verbose",
		"--architectures=" + in.Arch,
		"--include=" + strings.Join(in.Packages, ","),
		"--aptopt=" + filepath.Join(work, "apt.conf"),
		"--dpkgopt=" + filepath.Join(work, "dpkg.conf"),
		"--customize-hook=" + filepath.Join(work, "recipe.sh"),
		in.Suite, root, "-",
	}
}

// bootstrap runs mmdebstrap. Its output goes to the log of this digest.
func (b *builder) bootstrap(ctx context.Context) error {
	log, err := b.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := namespaced(ctx, b.in.UIDBase, b.in.UIDCount, "mmdebstrap", mmdebstrapArgs(b.in, b.root(), b.work())...)
	cmd.Dir = b.root()
	cmd.Env = apt.Environment(os.Environ(), "TMPDIR="+filepath.Join(b.work(), "tmp"))
	cmd.Stdin = strings.NewReader(apt.Lines(b.in.download))
	err = b.runLogged(cmd, log)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("mmdebstrap is not installed: run `bield setup`: %w", err)
	}
	return b.explain(err, log.Name())
}

func (b *builder) openLog() (*os.File, error) {
	path := b.store.logPath(b.digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build log: %w", err)
	}
	return log, nil
}

// maxLog bounds the log; a build writes about 1 MB.
const maxLog = 64 << 20

// runLogged runs cmd and reports its lines.
func (b *builder) runLogged(cmd *exec.Cmd, log io.Writer) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	copied := make(chan error, 1)
	go func() { copied <- b.follow(out, log) }()
	// Every other process that holds the pipe is in the namespace that ends
	// with cmd, so the copy ends too.
	err = runTied(cmd, func() { _ = in.Close() })
	return errors.Join(err, <-copied)
}

func (b *builder) follow(out io.Reader, log io.Writer) error {
	var watch watcher
	written := 0
	reader := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := reader.ReadSlice('\n')
		if text := apt.Redact(string(line)); len(line) > 0 && written+len(text) < maxLog {
			written += len(text)
			if _, err := io.WriteString(log, text); err != nil {
				return fmt.Errorf("write build log: %w", errors.Join(err, drain(reader)))
			}
		}
		if watch.see(strings.TrimSpace(string(line))) {
			b.store.at(strings.TrimSpace(watch.step + " " + watch.detail))
			b.progress(Progress{Digest: b.digest, Step: watch.step, Detail: watch.detail})
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read build output: %w", err)
		}
	}
}

// drain keeps the writer from blocking after the log has failed.
func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// watcher finds the progress in mmdebstrap's and apt's lines.
type watcher struct{ step, detail string }

var packageStep = regexp.MustCompile(`^(?:Unpacking|Setting up) ([a-z0-9][a-z0-9+.-]+)`)

// see reports whether the line brought something new.
func (w *watcher) see(line string) bool {
	if step, ok := strings.CutPrefix(line, "I: "); ok {
		step, _, _ = strings.Cut(step, ":")
		w.step, w.detail = strings.TrimSuffix(step, "..."), ""
		return true
	}
	found := packageStep.FindStringSubmatch(line)
	if found == nil || found[1] == w.detail {
		return false
	}
	w.detail = found[1]
	return true
}

// explain turns a failed mmdebstrap into one line that says why and where more
// is to be read.
func (b *builder) explain(err error, logPath string) error {
	data, readErr := os.ReadFile(logPath)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if reason := apt.Explain(string(data)); reason != "" {
		return fmt.Errorf("%s (log: %s)", reason, logPath)
	}
	return fmt.Errorf("mmdebstrap: %w (log: %s)", err, logPath)
}
