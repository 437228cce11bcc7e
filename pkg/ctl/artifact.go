package ctl

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// redrawEvery is how often the progress of an upload is drawn.
const redrawEvery = 100 * time.Millisecond

func artifactCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "artifact",
		GroupID: cli.GroupChange,
		Short:   "images and firmware that the coordinators keep for the racks",
		Long: `Images and firmware that the coordinators keep for the racks. An artifact is known by
its digest, which a script names; an agent that needs it gets it from an agent of its
site that has it, or from a coordinator.`,
		Example: "  chiba artifact add obmc-phosphor-image.tar\n  chiba artifact list\n  chiba artifact remove obmc-phosphor-image.tar",
		Aliases: []string{"artifacts"},
	})
	cmd.AddCommand(artifactAdd(), artifactList(), artifactRemove())
	return cmd
}

func artifactAdd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "give a file to the coordinators, and show its digest",
		Long: `Give a file to the coordinators, and show its digest. When it ends the file is on two
coordinators at least, if there are several, and soon on all. To give the same file
again changes its name, and nothing else.

In a script the artifact is named by its digest:

  (update-firmware "BMC" (version "2.18.0") (image "sha256:…"))`,
		Example: "  chiba artifact add obmc-phosphor-image.tar\n  chiba artifact add --name bmc-2.18 ./build/image.tar",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error { return addArtifact(cmd, c, args[0], name) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what it is called (default: the name of the file)")
	return cmd
}

func addArtifact(cmd *cobra.Command, c *client.Client, path, name string) error {
	const op = "add the artifact"
	file, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	defer func() { _ = file.Close() }() // it is only read
	if info, statErr := file.Stat(); statErr != nil || !info.Mode().IsRegular() {
		return fault.New(fault.BadInput, op, path+" is no file")
	}
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	a := client.Artifact{Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size, Name: name}
	if name == "" {
		a.Name = filepath.Base(path)
	}
	bars := cli.NewProgress(cmd.ErrOrStderr(), time.Now())
	drawn := time.Time{}
	kept, err := c.AddArtifact(cmd.Context(), a, file, func(sent int64) {
		if now := time.Now(); bars.Live() && now.Sub(drawn) > redrawEvery {
			drawn = now
			bars.Set(cli.Bar{Name: a.Name, Total: 100, Done: int(100 * sent / max(1, size)), Note: "of " + bytesOf(size)})
			bars.Draw(now)
		}
	})
	if bars.Live() {
		bars.Clear()
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s, on %s\n", kept.Digest, cli.Clean(kept.Name), bytesOf(kept.Size), cli.Clean(strings.Join(kept.Holders, ", ")))
	return nil
}

func artifactList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list the artifacts and who has them",
		Example: "  chiba artifact list\n  chiba artifact list -o json",
		Aliases: []string{"ls"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				all, err := c.Artifacts(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(all, viewArtifact), Names: []string{}}
				l.Table.Columns = cli.Columns("=NAME", "SIZE", "DIGEST", "ON", "BY", "ADDED")
				for _, a := range all {
					l.Names = append(l.Names, a.Name)
					l.Table.Add(a.Name, bytesOf(a.Size), shortDigest(a.Digest), strings.Join(a.Holders, ","), a.By, stamp(a.Added))
				}
				return l.Print(cmd)
			})
		},
	}
}

func artifactRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove (NAME | DIGEST)…",
		Short: "have the coordinators forget artifacts",
		Long: `Have the coordinators forget artifacts, by their name or the beginning of their
digest. One that a script in force or a run names is kept. The files go after a day;
what agents have of them stays there until they need the room.`,
		Example: "  chiba artifact remove bmc-2.18\n  chiba artifact remove sha256:4f2a9c",
		Aliases: []string{"rm"},
		Args:    cli.Args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				for _, who := range args {
					a, err := c.RemoveArtifact(cmd.Context(), who)
					if err != nil {
						return err
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s is removed (%s)\n", cli.Clean(a.Name), shortDigest(a.Digest))
				}
				return nil
			})
		},
	}
}

// shortDigest is enough of a digest to tell it from others, and to be typed.
func shortDigest(d string) string {
	const digits = 12
	if len(d) > len("sha256:")+digits {
		return d[:len("sha256:")+digits]
	}
	return d
}

// bytesOf is a size for people.
func bytesOf(n int64) string {
	const unit = 1024
	units := []string{"B", "KiB", "MiB", "GiB"}
	value, i := float64(n), 0
	for value >= unit && i < len(units)-1 {
		value, i = value/unit, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}

type artifactView struct {
	Name    string    `json:"name"`
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Holders []string  `json:"holders"`
	By      string    `json:"by"`
	Added   time.Time `json:"added"`
}

func viewArtifact(a client.Artifact) artifactView {
	return artifactView{Name: a.Name, Digest: a.Digest, Size: a.Size, Holders: a.Holders, By: a.By, Added: a.Added}
}
