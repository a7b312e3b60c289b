package main

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagename"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/sigstore"
	osfiles "github.com/OSInside/eos/os"
)

// appFile is a file of a device, as the key files of an image description has it.
type appFile struct {
	Path    string `yaml:"path" json:"path"`
	Content string `yaml:"content" json:"content"`
}

func newAppPolicyCommand(env *cli.Env) *cobra.Command {
	var name string
	var asJSON bool
	c := &cobra.Command{
		Use:   "policy REGISTRY[/PATH]",
		Short: "Print what makes a device take signed applications from a registry",
		Long: `Prints the key files of an image description: the settings by which podman on the device takes
images of this registry, or of this path in it and below, if the key has signed them. Images of
all other registries are refused, those in files of the device are accepted, as without.

The registry itself needs no trust, and podman talks to it over https unless the device's
registries.conf says otherwise.`,
		Example: `  eos app policy registry.example.com/apps >>images/mine.yaml
  eos app policy registry.example.com --key app.pub --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := imagename.Scope(args[0]); err != nil {
				return cli.Refuse(cli.Usage, err, "")
			}
			dir, err := keysDir(cmd, env)
			if err != nil {
				return err
			}
			files, err := policyFiles(args[0], keyFile(dir, name, ".pub"))
			if err != nil {
				return err
			}
			if asJSON {
				return cli.PrintJSON(env.Stdout, files)
			}
			e := yaml.NewEncoder(env.Stdout)
			e.SetIndent(2)
			if err := e.Encode(map[string][]appFile{"files": files}); err != nil {
				return fmt.Errorf("write policy: %w", err)
			}
			return e.Close()
		},
	}
	c.Flags().StringVar(&name, "key", appKey, "`key` that has signed them: a name in the keys directory or a .pub file")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// policyFiles returns the settings of podman, and the key they name.
func policyFiles(scope, keyPath string) ([]appFile, error) {
	k, err := key.LoadPublic(keyPath)
	if err != nil {
		return nil, cli.Refuse(cli.Failure, err, "make one with: eos keys new "+appKey)
	}
	pem, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	base, err := fs.ReadFile(osfiles.Podman(), "etc/containers/policy.json")
	if err != nil {
		return nil, fmt.Errorf("read policy of images: %w", err)
	}
	there := "/etc/containers/keys/" + k.Name + ".pub"
	policy, err := sigstore.Policy(base, scope, there)
	if err != nil {
		return nil, err
	}
	attachments, err := sigstore.Attachments(scope)
	if err != nil {
		return nil, err
	}
	return []appFile{
		{"/etc/containers/policy.json", string(policy)},
		{"/etc/containers/registries.d/" + k.Name + ".yaml", string(attachments)},
		{there, string(pem)},
	}, nil
}
