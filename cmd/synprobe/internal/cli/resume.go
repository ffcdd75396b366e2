package cli

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// resumeSchema is the version of the files of --resume.
const resumeSchema = "synprobe-resume/1"

// resumeState is what a run needs to go on where an earlier one stopped.
type resumeState struct {
	Schema string `json:"schema"`
	// Run names the targets and the options: see fingerprint.
	Run string `json:"run"`
	// Seed is hexadecimal: many readers of JSON can't hold 64 bits.
	Seed     string `json:"seed"`
	Position uint64 `json:"position"`
	// Counts are the results so far, by verdict and cause with a space
	// between.
	Counts map[string]uint64 `json:"counts"`
	// LeftOut are the targets that could not be probed, by the reason's word.
	LeftOut map[string]uint64 `json:"left_out,omitempty"`
}

// fingerprint names the targets and all that changes which of them are probed,
// or how.
func fingerprint(blocks []batch.Block, cfg batch.Config) [sha256.Size]byte {
	h := sha256.New()
	for _, b := range blocks {
		fmt.Fprintf(h, "%v", b.Prefix)
		for _, p := range b.Ports {
			_ = binary.Write(h, binary.BigEndian, p) // a hash takes everything
		}
		fmt.Fprintln(h)
	}
	fmt.Fprintf(h, "tries %d interface %q source %v link-layer %v shard %d/%d\n", cfg.Tries, cfg.Interface, cfg.Source, cfg.LinkLayer, cfg.Shard, cfg.Shards)
	return [sha256.Size]byte(h.Sum(nil))
}

// newSeed chooses the order of a fresh run. Shards of one list must have the
// same order, on whatever machine they run: theirs comes from the list.
func newSeed(blocks []batch.Block, cfg batch.Config) uint64 {
	if cfg.Shards > 0 {
		sum := fingerprint(blocks, batch.Config{})
		return binary.BigEndian.Uint64(sum[:])
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails: see crypto/rand
	return binary.BigEndian.Uint64(b[:])
}

// A resumeFile is the file of --resume.
type resumeFile struct {
	name  string
	fresh bool // no earlier run left it
	state resumeState
}

// openResume reads the file, or makes it, and sets where cfg starts. A file
// that another run left is an error: its targets are not these.
func (r *run) openResume(name string, run [sha256.Size]byte, targets uint64, cfg *batch.Config) (*resumeFile, error) {
	what := "--resume " + report.Escape(name)
	f := &resumeFile{name: name}
	f.state = resumeState{Schema: resumeSchema, Run: hex.EncodeToString(run[:]), Seed: strconv.FormatUint(cfg.Seed, 16), Counts: map[string]uint64{}}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.fresh = true
		return f, f.save()
	case err != nil:
		return nil, &failure{kind: report.IOError, what: what, why: cause(err)}
	case !info.Mode().IsRegular():
		return nil, misuse(what, "not a regular file", "name a file that does not exist yet")
	case info.Size() > 1<<20:
		return nil, misuse(what, "not a file of --resume", "name a file that does not exist yet")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, &failure{kind: report.IOError, what: what, why: cause(err)}
	}
	var old resumeState
	if err := json.Unmarshal(text, &old); err != nil || old.Schema != resumeSchema {
		return nil, misuse(what, "not a file of --resume", "name a file that does not exist yet")
	}
	seed, err := strconv.ParseUint(old.Seed, 16, 64)
	for text := range old.Counts {
		// What is counted is printed.
		verdict, cause, _ := strings.Cut(text, " ")
		if !slices.Contains(verdictsByWord, diagnose.Verdict(verdict)) || strings.Trim(cause, "abcdefghijklmnopqrstuvwxyz-") != "" {
			err = errors.New("no such verdict")
		}
	}
	if err != nil || old.Counts == nil {
		return nil, misuse(what, "it is damaged", "remove it to start anew")
	}
	if old.Run != f.state.Run {
		return nil, misuse(what, "it is of a run with other targets or flags", "give those again, or remove the file to start anew")
	}
	if old.Position > targets {
		// As if all were done, it would be removed, and nothing probed.
		return nil, misuse(what, fmt.Sprintf("it is not of these targets: it is at target %s of %s", report.Thousands(old.Position), report.Thousands(targets)), "give the targets of its run, or remove the file to start anew")
	}
	f.state = old
	cfg.Seed, cfg.Position = seed, old.Position
	return f, nil
}

// save writes the state beside the file and puts it in its place: whoever reads
// the file finds the old state or the new one.
func (f *resumeFile) save() (err error) {
	defer func() {
		if err != nil {
			err = &failure{kind: report.IOError, what: "write " + report.Escape(f.name), why: cause(err)}
		}
	}()
	text, err := json.Marshal(f.state)
	if err != nil {
		return err
	}
	// CreateTemp gives it the mode 0600.
	t, err := os.CreateTemp(filepath.Dir(f.name), "."+filepath.Base(f.name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(t.Name())
		}
	}()
	_, err = t.Write(append(text, '\n'))
	if err == nil {
		err = own(t)
	}
	if err == nil {
		err = t.Sync()
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), f.name)
}

func (f *resumeFile) remove() error {
	if err := os.Remove(f.name); err != nil {
		return &failure{kind: report.IOError, what: "remove " + report.Escape(f.name), why: cause(err)}
	}
	return nil
}
