package bench

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// graphWidth is how many characters the picture of a ratio has.
const graphWidth = 24

// Style is what a table is drawn with.
type Style struct {
	full, bar, aim     rune
	parts              []rune // of a character, growing; none: whole ones only
	met, missed, least string
	most, failed       string
}

// Unicode draws with block elements, for a terminal; ASCII for a log.
var (
	Unicode = Style{full: '█', bar: '│', aim: '┊', parts: []rune("▏▎▍▌▋▊▉"), met: "✓", missed: "✗", least: "≥ ", most: "≤ ", failed: "FAILED"}
	ASCII   = Style{full: '#', bar: '|', aim: ':', met: "ok", missed: "MISSED", least: ">= ", most: "<= ", failed: "FAILED"}
)

// Table draws rows as a table. Where a row has a bar or a ratio, the picture shows the number
// that is judged, with marks where bar and aim are, or where a ratio without them is 1; the
// scale of each row is its own and begins at 0. A row that failed shows the first line of its
// error.
func Table(results []Result, s Style) string {
	lines := [][]string{{"", "value", "bound", "ratio", "", "bar", "aim", "", "the bound is"}}
	for _, r := range results {
		if r.Error != "" {
			first, _, _ := strings.Cut(r.Error, "\n")
			lines = append(lines, []string{r.Name, "", "", "", "", "", "", s.failed, first})
			continue
		}
		line := []string{r.Name, number(r.Value) + " " + r.Unit, "", "", s.graph(r), "", "", "", r.Bound}
		if r.BoundValue != nil {
			line[2] = number(*r.BoundValue)
		}
		if r.Ratio != nil {
			line[3] = ratio(*r.Ratio)
		}
		if r.Bar != nil {
			line[5], line[7] = s.limit(r, *r.Bar), s.missed
			if r.reaches(*r.Bar) {
				line[7] = s.met
			}
		}
		if r.Aim != nil {
			line[6] = s.limit(r, *r.Aim)
		}
		lines = append(lines, line)
	}
	return columns(lines)
}

func (s Style) limit(r Result, v float64) string {
	sign := s.least
	if r.LessIsBetter {
		sign = s.most
	}
	if r.Ratio != nil {
		return sign + ratio(v)
	}
	return sign + number(v)
}

// graph draws the number that is judged, with its bar and aim.
func (s Style) graph(r Result) string {
	bar := r.Bar
	if bar == nil && r.Ratio != nil {
		bar = new(1.0)
	}
	if bar == nil {
		return ""
	}
	v := max(r.judged(), 0)
	full := max(v, *bar)
	if r.Aim != nil {
		full = max(full, *r.Aim)
	}
	if full <= 0 {
		return ""
	}
	cells := []rune(strings.Repeat(" ", graphWidth))
	filled := v / full * graphWidth
	whole := int(filled)
	for i := range min(whole, graphWidth) {
		cells[i] = s.full
	}
	if n := int((filled - float64(whole)) * float64(len(s.parts)+1)); n > 0 && whole < graphWidth {
		cells[whole] = s.parts[n-1]
	}
	mark := func(limit float64, with rune) {
		cells[min(int(limit/full*graphWidth), graphWidth-1)] = with
	}
	if r.Aim != nil {
		mark(max(*r.Aim, 0), s.aim)
	}
	mark(max(*bar, 0), s.bar)
	return string(cells)
}

func ratio(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// number writes three digits that count; whole numbers whole.
func number(v float64) string {
	abs := math.Abs(v)
	switch {
	case v == 0 || abs >= 100 || v == math.Trunc(v) && abs < 1e15:
		return group(strconv.FormatFloat(v, 'f', 0, 64))
	case abs < 0.001:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return strconv.FormatFloat(v, 'f', max(2-int(math.Floor(math.Log10(abs))), 0), 64)
}

// group sets a comma after each three digits.
func group(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// columns aligns cells; those of numbers, from the second column to the fourth, on the right.
func columns(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var row strings.Builder
		for i, cell := range line {
			if widths[i] == 0 {
				continue
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i >= 2 && i <= 3 {
				cell = pad + cell
			} else {
				cell += pad
			}
			if row.Len() > 0 {
				row.WriteString("  ")
			}
			row.WriteString(cell)
		}
		fmt.Fprintln(&b, strings.TrimRight(row.String(), " "))
	}
	return b.String()
}
