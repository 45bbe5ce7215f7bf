package main

import (
	"context"
	"os"

	"bield/internal/config"
	"bield/internal/registries"
	"bield/internal/spec"
)

// hostEnv is what reading a file needs to know of this machine.
func hostEnv(ctx context.Context) (config.Env, error) {
	env, err := config.HostEnv(ctx)
	if err != nil {
		return env, err
	}
	host := registries.Host{Root: "/", Home: env.Caller.Home, Environ: os.Environ()}
	if env.Sudo != nil {
		host.Home, host.As = env.Sudo.Home, &env.Sudo.ID
	}
	env.Preset = func(name string) ([]spec.Target, error) {
		answer, err := host.Lookup(ctx, name)
		return answer.Targets, err
	}
	return env, nil
}
