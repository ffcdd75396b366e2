package htmlpage

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    []string
	}{
		{"", 10, []string{""}},
		{"10.0.0.1", 10, []string{"10.0.0.1"}},
		{"the host, 0.52 ms", 12, []string{"the host,", "0.52 ms"}},
		{"2001:db8:1234:5678:9abc:def0:1234:a002", 31, []string{"2001:db8:1234:5678:9abc:def0:", "1234:a002"}},
		{"fw1.example.com", 10, []string{"fw1.", "example.", "com"}},
		{"abcdefghijklmnop", 9, []string{"abcdefgh", "ijklmnop"}},
		{"日本語の名前", 9, []string{"日本語の", "名前"}},
		{strings.Repeat("x", 100), 11, []string{"xxxxxxxxxx", "xxxxxxxxxx", "xxxxxxxxxx…"}},
	} {
		got := wrap(test.text, test.columns)
		if !slices.Equal(got, test.want) {
			t.Errorf("wrap(%q, %d) = %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		length time.Duration
		want   []string
	}{
		{0, []string{"0"}},
		{3, []string{"0", "0.001 µs", "0.002 µs", "0.003 µs"}},
		{700 * time.Microsecond, []string{"0", "200 µs", "400 µs", "600 µs"}},
		{2300 * time.Millisecond, []string{"0", "500 ms", "1 s", "1.5 s", "2 s"}},
		{35 * time.Second, []string{"0", "10 s", "20 s", "30 s"}},
	} {
		d := drawTimeline(&Timeline{Length: test.length})
		var got []string
		for _, l := range d.Ticks {
			got = append(got, l.Text)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: ticks %q, want %q", test.length, got, test.want)
		}
	}
}

// TestTimelineStaysInside draws times beyond both ends of the axis, and many on
// one pixel.
func TestTimelineStaysInside(t *testing.T) {
	times := []time.Duration{-time.Second, 0, time.Second, time.Hour}
	for range 1000 {
		times = append(times, 500*time.Millisecond)
	}
	d := drawTimeline(&Timeline{Length: time.Second, Rows: []TimeRow{{Sent: times}}})
	if want := []int{d.Left, (d.Left + d.Right) / 2, d.Right}; !slices.Equal(d.Rows[0].Sent, want) {
		t.Errorf("drawn at %v, want %v", d.Rows[0].Sent, want)
	}
}

// TestSheets checks that pieces of a drawing follow each other without a seam:
// each line that leaves one goes on at the upper edge of the next.
func TestSheets(t *testing.T) {
	for n := 1; n <= 65; n++ {
		p := &Path{Lanes: []Lane{{Reach: n - 1, Faint: n - 1}, {Reach: n / 2, Faint: n - 1}}, Stop: -1}
		for range n {
			p.Nodes = append(p.Nodes, Node{Names: []string{"10.0.0.1"}, Marks: []Mark{Passes, Silent}})
		}
		sheets := draw(p)
		cards, y := 0, 0
		for i, s := range sheets {
			cards += len(s.Cards)
			if i == 0 {
				y = s.Height
				continue
			}
			for lane := range p.Lanes {
				x := laneFirst + laneStep*lane
				leaves := slices.ContainsFunc(sheets[i-1].Lines, func(l line) bool { return l.X == x && l.Y2 == y })
				enters := slices.ContainsFunc(s.Lines, func(l line) bool { return l.X == x && l.Y1 == 0 })
				if !leaves || !enters {
					t.Fatalf("%d nodes: lane %d leaves sheet %d: %t, enters the next: %t", n, lane, i-1, leaves, enters)
				}
			}
			y = s.Height
		}
		if cards != n || len(sheets) != (n+sheetNodes-1)/sheetNodes {
			t.Fatalf("%d cards on %d sheets for %d nodes", cards, len(sheets), n)
		}
	}
}
