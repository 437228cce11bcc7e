package clock

import (
	"testing"
	"time"
)

func TestStamp(t *testing.T) {
	east := time.FixedZone("east", 2*3600)
	at := time.Date(2026, 3, 1, 12, 30, 45, 123456789, east)
	for _, tt := range []struct {
		offset time.Duration
		layout string
		want   string
	}{
		{0, Seconds, "2026-03-01T10:30:45+00:00"}, // never "Z", never the zone of the caller
		{0, Milliseconds, "2026-03-01T10:30:45.123+00:00"},
		{0, Microseconds, "2026-03-01T10:30:45.123456+00:00"},
		{time.Hour, Seconds, "2026-03-01T11:30:45+00:00"},
		{-24 * time.Hour, Seconds, "2026-02-28T10:30:45+00:00"},
		{time.Unix(0, 0).Sub(at), Seconds, "1970-01-01T00:00:00+00:00"},
	} {
		if got := Offset(tt.offset).Stamp(at, tt.layout); got != tt.want {
			t.Errorf("off by %v: %s, want %s", tt.offset, got, tt.want)
		}
	}
	if got := Offset(time.Minute).At(at); !got.Equal(at.Add(time.Minute)) {
		t.Errorf("a minute later it is %v", got)
	}
}
