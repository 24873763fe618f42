// Command image packs files into a container image, without a container engine and on no base:
//
//	image [-user UID] OUT.tar NAME:TAG[,NAME:TAG...] PATH_IN_IMAGE=FILE... -- ENTRYPOINT...
//
// The file goes to `ctr -n k8s.io images import` and is then known by exactly these names. The same files give the same image.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	user := flag.String("user", "", "the user it runs as, by number")
	flag.Parse()
	if err := pack(*user, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func pack(user string, args []string) error {
	split := slices.Index(args, "--")
	if split < 3 {
		return errors.New("usage: image [-user UID] OUT.tar NAME:TAG[,NAME:TAG...] PATH_IN_IMAGE=FILE... -- ENTRYPOINT...")
	}
	files, err := archive(args[2:split])
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		User:       user,
		Entrypoint: args[split+1:],
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	images := map[name.Tag]v1.Image{}
	for known := range strings.SplitSeq(args[1], ",") {
		tag, err := name.NewTag(known, name.StrictValidation)
		if err != nil {
			return err
		}
		images[tag] = image
	}
	return tarball.MultiWriteToFile(args[0], images)
}

// archive is the layer: every file may be read and run by everyone.
func archive(pairs []string) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, pair := range pairs {
		path, file, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("%q is not PATH_IN_IMAGE=FILE", pair)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		header := tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(content))}
		if err := writer.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}
