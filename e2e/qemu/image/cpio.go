package image

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// File is one regular file of an archive.
type File struct {
	Path string // relative, with slashes
	Mode fs.FileMode
	Data []byte
}

// CPIO packs files into an archive in the format "newc", which the kernel
// unpacks into its first root file system. Folders are made as they are needed.
func CPIO(files []File) []byte {
	c := &archive{made: map[string]bool{".": true}}
	for _, f := range files {
		c.folder(path.Dir(f.Path))
		c.entry(f.Path, 0o100000|uint32(f.Mode.Perm()), f.Data)
	}
	c.entry("TRAILER!!!", 0, nil)
	return c.out.Bytes()
}

type archive struct {
	out   bytes.Buffer
	inode int
	made  map[string]bool
}

func (c *archive) folder(name string) {
	var missing []string
	for ; !c.made[name]; name = path.Dir(name) {
		missing = append(missing, name)
		c.made[name] = true
	}
	for _, name := range slices.Backward(missing) {
		c.entry(name, 0o040755, nil)
	}
}

// entry is a header of hexadecimal numbers, the name and the content, each
// padded to four bytes: magic, inode, mode, owner, group, links, time, size, four
// device numbers, length of the name, checksum.
func (c *archive) entry(name string, mode uint32, data []byte) {
	c.inode++
	fmt.Fprintf(&c.out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.out.WriteString(name + "\x00")
	c.pad()
	c.out.Write(data)
	c.pad()
}

func (c *archive) pad() {
	for c.out.Len()%4 != 0 {
		c.out.WriteByte(0)
	}
}
