package boltfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func database(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put(fmt.Append(nil, i), make([]byte, 3000))
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := Whole(path); err != nil { // whenever the process might end
			t.Fatalf("after %d: %v", i, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhole(t *testing.T) {
	path := database(t)
	if err := Whole(path); err != nil {
		t.Error(err)
	}
	for _, size := range []int64{20_000, 9000, 8192} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		err := Whole(path)
		if err == nil || !strings.Contains(err.Error(), path+" is cut short") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestWhatIsNoneIsLeftToBolt(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "short": "hello", "text": strings.Repeat("hello ", 10_000)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Whole(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Whole(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}
