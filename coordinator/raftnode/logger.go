package raftnode

import (
	"context"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// logger gives what Raft says to slog: errors as warnings, because Raft tries
// again by itself, everything else as debug lines. The message is constant and
// Raft's text rides in a key, as in all our lines.
type logger struct {
	hclog.Logger // a null logger, for all that is not said here
	to           *slog.Logger
}

func newLogger(to *slog.Logger) *logger {
	return &logger{Logger: hclog.NewNullLogger(), to: to}
}

const textKey = "text"

// Log implements hclog.Logger.
func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level >= hclog.Error {
		to = slog.LevelWarn
	}
	l.to.Log(context.Background(), to, "raft", append([]any{textKey, msg}, args...)...)
}

// Trace implements hclog.Logger; it is not kept.
func (l *logger) Trace(string, ...any) {}

// Debug implements hclog.Logger.
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements hclog.Logger.
func (l *logger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements hclog.Logger.
func (l *logger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements hclog.Logger.
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

// With implements hclog.Logger.
func (l *logger) With(args ...any) hclog.Logger { return newLogger(l.to.With(args...)) }

// Named implements hclog.Logger.
func (l *logger) Named(string) hclog.Logger { return l }

// ResetNamed implements hclog.Logger.
func (l *logger) ResetNamed(string) hclog.Logger { return l }
