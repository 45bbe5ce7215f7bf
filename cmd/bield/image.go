package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newImageCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Build, list and remove guest images"}
	c.AddCommand(newImageBuildCommand(a), newImageListCommand(a), newImageRemoveCommand(a), newImagePruneCommand(a))
	group(c)
	return c
}

func newImageBuildCommand(a *app) *cobra.Command {
	var request api.BuildRequest
	c := &cobra.Command{
		Use:   "build [NAME…]",
		Short: "Build the images of VMs, or of all that the file declares",
		Long: `Build the images of the named VMs, or of all that the file declares, unless they
are there. up does the same by itself; building ahead makes the first start fast.
With --base, no file is read: the image has the base packages and those of
--package.`,
		Example: `  sudo bield image build
  sudo bield image build --base --package nodejs`,
	}
	base := c.Flags().Bool("base", false, "the image of a VM without options of its own")
	c.Flags().StringSliceVar(&request.Image.Packages, "package", nil, "with --base: a package to add (may be repeated)")
	c.Flags().StringVar(&request.Image.Suite, "suite", "", "with --base: the distribution's suite (default: the host's own)")
	c.Flags().BoolVar(&request.Disk, "disk", false, "make its EROFS disk as well, for storeOnDisk")
	c.RunE = func(c *cobra.Command, args []string) error {
		return runImageBuild(c.Context(), a, *base, request, args)
	}
	return c
}

func runImageBuild(ctx context.Context, a *app, base bool, request api.BuildRequest, names []string) error {
	requests, err := a.buildRequests(ctx, base, request, names)
	if err != nil {
		return err
	}
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, r := range requests {
		if err := a.buildOne(ctx, d.BuildImage, r); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) buildOne(ctx context.Context, build func(context.Context, api.BuildRequest, func(api.Event)) error, r api.BuildRequest) error {
	p := a.newProgress("image")
	defer p.close()
	var digest string
	err := build(ctx, r, func(e api.Event) {
		if e.Done {
			digest = e.Message
		}
		p.show(e)
	})
	if err == nil {
		fmt.Fprintln(a.out, digest)
	}
	return err
}

// buildRequests lists one request for each different image.
func (a *app) buildRequests(ctx context.Context, base bool, request api.BuildRequest, names []string) ([]api.BuildRequest, error) {
	if base {
		if len(names) > 0 {
			return nil, &exitError{exitUsage, errors.New("--base takes no names")}
		}
		return []api.BuildRequest{request}, nil
	}
	if len(request.Image.Packages) > 0 || request.Image.Suite != "" {
		return nil, &exitError{exitUsage, errors.New("--package and --suite go with --base: a VM's packages stand in the file")}
	}
	host, path, err := a.load(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = host.Names()
	}
	var requests []api.BuildRequest
	for _, name := range names {
		vm, ok := host.VM(name)
		if !ok {
			return nil, fmt.Errorf("%s declares no VM %q; it has: %s", path, name, strings.Join(host.Names(), ", "))
		}
		requests = append(requests, api.BuildRequest{Image: vm.Image, Disk: request.Disk || vm.StoreOnDisk})
	}
	return slices.CompactFunc(requests, func(a, b api.BuildRequest) bool { return reflect.DeepEqual(a, b) }), nil
}

func newImageListCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images of this host",
		Args:    usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.daemon(c.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			reply, err := d.Images(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.out, reply.Images)
			}
			return a.printImages(reply.Images)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of all that is known")
	return c
}

func (a *app) printImages(images []api.Image) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DIGEST\tMADE\tSIZE\tSUITE\tKERNEL\tUSED BY")
	for _, i := range images {
		fmt.Fprintf(w, "%.12s\t%s\t%dM\t%s\t%s\t%s\n", i.Digest, i.Made.Format(time.DateTime), i.Bytes>>20, i.Suite, i.Kernel, strings.Join(i.UsedBy, " "))
	}
	return w.Flush()
}

func newImageRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm DIGEST…",
		Short: "Remove images; the start of a digest is enough",
		Args:  usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.daemon(c.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			for _, digest := range args {
				if err := d.RemoveImage(c.Context(), digest); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newImagePruneCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove the images that no VM of this host uses",
		Args:  usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.daemon(c.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			reply, err := d.PruneImages(c.Context())
			if err != nil {
				return err
			}
			var bytes int64
			for _, i := range reply.Removed {
				bytes += i.Bytes
			}
			fmt.Fprintf(a.out, "removed %d images, %d MB\n", len(reply.Removed), bytes>>20)
			return nil
		},
	}
}
