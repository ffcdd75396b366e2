package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// measure is what the browser runs in a page of our own, around the report: it
// looks at how each frame was laid out and leaves its complaints as JSON.
const measure = `
const faults = [];
let frames = 0, drawings = 0;
window.onload = () => {
	for (const frame of document.querySelectorAll("iframe")) {
		const doc = frame.contentDocument, page = doc.documentElement;
		const fault = text => faults.push(frame.title + " at " + frame.width + " px: " + text);
		frames++;
		if (page.clientWidth != frame.width) fault("it has " + page.clientWidth + " px");
		if (page.scrollWidth > page.clientWidth) fault("scrolls to " + page.scrollWidth + " px");
		if (doc.querySelector("main") === null) fault("has no main");
		for (const svg of doc.querySelectorAll("svg")) {
			drawings++;
			const all = svg.getBoundingClientRect();
			if (all.width < 300) fault("the drawing is " + all.width + " px wide");
			const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
			const cards = [...svg.querySelectorAll("rect")].map(c => c.getBoundingClientRect());
			const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
			const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
			texts.forEach(([text, box], i) => {
				if (!inside(box, all)) fault("beyond the drawing: " + text);
				for (const [other, b] of texts.slice(i + 1)) if (meet(box, b)) fault("one on the other: " + text + ", " + other);
				for (const c of cards) if (meet(box, c) && !inside(box, c)) fault("across a card's edge: " + text);
			});
			cards.forEach((c, i) => { for (const b of cards.slice(i + 1)) if (meet(c, b)) fault("cards on each other"); });
		}
	}
	document.getElementById("result").textContent = JSON.stringify({faults, frames, drawings});
};`

// TestHTMLInBrowser has Chromium lay out every shape on a phone and on a desk.
// The browser runs in a network namespace without a network.
func TestHTMLInBrowser(t *testing.T) {
	t.Parallel()
	browser := chromium(t)
	var b strings.Builder
	b.WriteString("<!DOCTYPE html><meta charset=utf-8><script>" + measure + "</script><pre id=result></pre>")
	frames, drawings, widths := 0, 0, []int{360, 1200}
	frame := func(name, text string) {
		for _, width := range widths {
			frames++
			drawings += strings.Count(text, "<svg ")
			fmt.Fprintf(&b, "<iframe title=\"%s\" width=%d height=800 frameborder=0 srcdoc=\"%s\"></iframe>\n", html.EscapeString(name), width, html.EscapeString(text))
		}
	}
	var all []*Result
	for _, s := range shapes() {
		frame(s.name, page(t, []*Result{s.r}, nil, aboutTest).text)
		all = append(all, s.r)
	}
	frame("several targets", page(t, all[:6], []Failure{{Name: strings.Repeat("long-name.", 20), Kind: NameNotFound, Message: strings.Repeat("long", 50)}}, aboutTest).text)
	for i, text := range []string{strings.Repeat("w", 5000), strings.Repeat("W.", 60), strings.Repeat("日本語", 40), "\u202e\x1b"} {
		frame(fmt.Sprint("hostile ", i), filled(t, text).text)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "frames.html")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := browse(t, browser, dir, "--dump-dom", "file://"+file)
	m := regexp.MustCompile(`<pre id="result">(.*?)</pre>`).FindStringSubmatch(out)
	if m == nil || m[1] == "" {
		t.Fatalf("the browser measured nothing: %.2000s", out)
	}
	var got struct {
		Faults           []string
		Frames, Drawings int
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(m[1])), &got); err != nil {
		t.Fatal(err)
	}
	if got.Frames != frames || got.Drawings != drawings {
		t.Errorf("the browser measured %d frames with %d drawings, of %d and %d", got.Frames, got.Drawings, frames, drawings)
	}
	for _, f := range got.Faults {
		t.Error(f)
	}
}

// chromium finds the browser. No test of what we promise in words needs one, so
// its absence is no failure.
func chromium(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: not root: no network namespace to keep a browser off the network")
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: no Chromium in PATH: nobody looks at the page as a browser lays it out")
	return ""
}

// browse runs the browser without a network, and returns its output. As the
// first process of a PID namespace it takes all of its helpers with it.
func browse(t *testing.T, browser, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, append([]string{
		"--no-sandbox", "--headless", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--disable-crash-reporter",
		"--window-size=1400,900", "--user-data-dir=" + filepath.Join(dir, "profile"),
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", browser, err, &errs)
	}
	return out.String()
}
