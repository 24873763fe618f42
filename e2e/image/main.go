// Command image packs files into a container image, without a container engine and on no base:
//
//	image [-user UID] OUT.tar NAME:TAG[,NAME:TAG...] PATH_IN_IMAGE=FILE... -- ENTRYPOINT...
//
// A FILE that is a folder goes there with all that is in it. What is written goes to `ctr -n k8s.io images import` and is then known
// by exactly these names. The same files give the same image.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
		// What is named is followed; links in a folder stay what they are.
		file, err := filepath.EvalSymlinks(file)
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(file, func(at string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return add(writer, strings.TrimPrefix(filepath.Join(path, strings.TrimPrefix(at, file)), "/"), at, entry.Type())
		})
		if err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}

// add puts a file, or a link as it is, into the layer. Folders are there once something is in them.
func add(writer *tar.Writer, name, file string, kind fs.FileMode) error {
	switch kind {
	case fs.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		return writer.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
	case 0:
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := writer.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = writer.Write(content)
		return err
	}
	return nil
}
