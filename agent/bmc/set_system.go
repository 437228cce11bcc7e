package bmc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// onSystem compares settings with the computer system.
func onSystem(ctx context.Context, v *view, settings []scl.Setting, field func(*system, scl.Setting) fleet.Change) []fleet.Change {
	s, _, err := v.system(ctx)
	if err != nil {
		return unread(settings, err)
	}
	out := make([]fleet.Change, len(settings))
	for i, setting := range settings {
		out[i] = field(s, setting)
	}
	return out
}

// patchSystem changes properties of the computer system.
func patchSystem(ctx context.Context, v *view, body any) error {
	p, err := v.places(ctx)
	if err != nil {
		return err
	}
	return v.lane.patch(ctx, v.prio, p.system, body)
}

// patchBoot changes the Boot member. Some makes want the mode repeated. Where
// the system itself is read-only, its settings resource takes the change
// (DSP0266, settings resources; iDRAC10: stmcginnis/gofish#511).
func patchBoot(ctx context.Context, v *view, s *system, body map[string]any) error {
	if _, given := body["BootSourceOverrideMode"]; !given && v.lane.client.Profile().BootMode && s.Boot.Mode != "" {
		body["BootSourceOverrideMode"] = s.Boot.Mode
	}
	err := patchSystem(ctx, v, map[string]any{"Boot": body})
	if fault.Is(err, fault.Unsupported) && s.Settings.Object != "" {
		return v.lane.patch(ctx, v.prio, s.Settings.Object, map[string]any{"Boot": body})
	}
	return err
}

// powerSetting is (power (state "on"|"off")).
type powerSetting struct{}

func (powerSetting) settles(l *Lane) time.Duration { return l.cfg.Settle }

func (powerSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	return onSystem(ctx, v, settings, func(s *system, setting scl.Setting) fleet.Change {
		if setting.Field != "state" {
			return unsupported("the agent can't configure " + setting.Path())
		}
		if s.PowerState == "" {
			return unsupported("this BMC reports no power state")
		}
		return compared(kebab(string(s.PowerState)), same(string(s.PowerState), wordOfValue(setting.Value)))
	})
}

// write switches on, or asks the operating system to switch off: a standing
// configuration never pulls the plug. (action … (power off)) does.
func (powerSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	want := settings[len(settings)-1].Value
	s, _, err := v.system(ctx)
	if err != nil {
		return err
	}
	types := []schemas.ResetType{schemas.OnResetType, schemas.ForceOnResetType}
	if same(wordOfValue(want), "off") {
		types = []schemas.ResetType{schemas.GracefulShutdownResetType, schemas.ForceOffResetType}
	} else if !same(wordOfValue(want), "on") {
		return fault.New(fault.BadInput, "set power.state", fmt.Sprintf("%q is neither on nor off", want))
	}
	if state := plain(string(s.PowerState)); strings.HasPrefix(state, "powering") && strings.HasSuffix(state, plain(wordOfValue(want))) {
		return nil // it is on its way already
	}
	_, err = v.reset(ctx, s, types)
	return err
}

// bootSetting is (boot (target pxe) (once #t) (mode uefi)).
type bootSetting struct{}

func (bootSetting) settles(l *Lane) time.Duration { return 3 * l.cfg.Poll }

func (bootSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	return onSystem(ctx, v, settings, func(s *system, setting scl.Setting) fleet.Change {
		b := s.Boot
		if b.Target == "" && b.Enabled == "" {
			return unsupported("this BMC shows no boot override")
		}
		switch setting.Field {
		case "target":
			now := bootTarget(b).String()
			return compared(now, same(bootSource(now), bootSource(wordOfValue(setting.Value))))
		case "once":
			want, _ := setting.Value.Bool()
			now := b.Enabled == "Once"
			return compared(fleet.Bool(now).String(), now == want)
		case "mode":
			if b.Mode == "" {
				return unsupported("this BMC shows no boot mode")
			}
			return compared(kebab(string(b.Mode)), same(string(b.Mode), wordOfValue(setting.Value)))
		default:
			return unsupported("the agent can't configure " + setting.Path())
		}
	})
}

func (bootSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	s, _, err := v.system(ctx)
	if err != nil {
		return err
	}
	body := map[string]any{}
	for _, setting := range settings {
		switch setting.Field {
		case "target":
			target, err := s.Boot.redfishTarget(wordOfValue(setting.Value))
			if err != nil {
				return err
			}
			body["BootSourceOverrideTarget"] = target
			if _, set := body["BootSourceOverrideEnabled"]; !set {
				body["BootSourceOverrideEnabled"] = enabledFor(target, s.Boot.Enabled == "Once")
			}
		case "once":
			once, _ := setting.Value.Bool()
			body["BootSourceOverrideEnabled"] = enabledFor("", once)
		case "mode":
			body["BootSourceOverrideMode"] = s.Boot.redfishMode(wordOfValue(setting.Value))
		}
	}
	return patchBoot(ctx, v, s, body)
}

// enabledFor is the BootSourceOverrideEnabled that belongs to a target.
func enabledFor(target string, once bool) string {
	switch {
	case target == string(schemas.NoneBootSource):
		return "Disabled"
	case once:
		return "Once"
	default:
		return "Continuous"
	}
}

// bootSource is a boot target as Redfish names it; a word that SCL has no own
// spelling for stays as it is.
func bootSource(word string) string {
	switch plain(word) {
	case "http":
		return string(schemas.UefiHTTPBootSource)
	case "bios", "setup":
		return string(schemas.BiosSetupBootSource)
	case "disk":
		return string(schemas.HddBootSource)
	case "dvd":
		return string(schemas.CdBootSource)
	default:
		return word
	}
}

// bootWord is a boot target of Redfish as SCL writes it.
func bootWord(source string) string {
	for _, word := range []string{"http", "bios"} {
		if same(bootSource(word), source) {
			return word
		}
	}
	return strings.ToLower(source)
}

// redfishTarget is SCL's word for a boot target in the BMC's spelling.
func (b boot) redfishTarget(word string) (string, error) {
	word = bootSource(word)
	for _, t := range b.Targets {
		if same(t, word) {
			return t, nil
		}
	}
	if len(b.Targets) > 0 {
		return "", fault.New(fault.Unsupported, "set the boot target", fmt.Sprintf("this BMC boots from %s, not from %s",
			strings.ToLower(strings.Join(b.Targets, ", ")), word))
	}
	for _, s := range []schemas.BootSource{
		schemas.PxeBootSource, schemas.HddBootSource, schemas.CdBootSource, schemas.UsbBootSource,
		schemas.UefiHTTPBootSource, schemas.BiosSetupBootSource, schemas.DiagsBootSource, schemas.NoneBootSource,
	} {
		if same(string(s), word) {
			return string(s), nil
		}
	}
	return "", fault.New(fault.BadInput, "set the boot target", fmt.Sprintf("there is no boot target %q", word))
}

// redfishMode is "uefi" or "legacy" in the BMC's spelling.
func (b boot) redfishMode(word string) string {
	for _, m := range append(b.Modes, "UEFI", "Legacy") {
		if same(m, word) {
			return m
		}
	}
	return word
}

// assetSetting is (asset-tag "…").
type assetSetting struct{}

func (assetSetting) settles(l *Lane) time.Duration { return 3 * l.cfg.Poll }

func (assetSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	return onSystem(ctx, v, settings, func(s *system, setting scl.Setting) fleet.Change {
		if s.AssetTag == nil {
			return unsupported("this BMC shows no asset tag")
		}
		return compared(string(*s.AssetTag), string(*s.AssetTag) == setting.Value.String())
	})
}

func (assetSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	return patchSystem(ctx, v, map[string]any{"AssetTag": settings[len(settings)-1].Value.String()})
}

// indicatorSetting is (indicator on|off|blink).
type indicatorSetting struct{}

func (indicatorSetting) settles(l *Lane) time.Duration { return 3 * l.cfg.Poll }

func (indicatorSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	return onSystem(ctx, v, settings, func(s *system, setting scl.Setting) fleet.Change {
		now := led(s)
		if !now.Known() {
			return unsupported("this BMC shows no indicator light")
		}
		return compared(now.String(), same(now.String(), wordOfValue(setting.Value)))
	})
}

func (indicatorSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	return v.setIndicator(ctx, wordOfValue(settings[len(settings)-1].Value))
}

// setIndicator prefers LocationIndicatorActive; only the older IndicatorLED
// can blink.
func (v *view) setIndicator(ctx context.Context, word string) error {
	s, _, err := v.system(ctx)
	if err != nil {
		return err
	}
	leds := map[string]string{"on": "Lit", "off": "Off", "blink": "Blinking"}
	switch {
	case leds[word] == "":
		return fault.New(fault.BadInput, "set the indicator", fmt.Sprintf("%q is not on, off or blink", word))
	case s.Locating.Set && word != "blink":
		return patchSystem(ctx, v, map[string]any{"LocationIndicatorActive": word == "on"})
	case s.IndicatorLED != "":
		return patchSystem(ctx, v, map[string]any{"IndicatorLED": leds[word]})
	case s.Locating.Set:
		return fault.New(fault.Unsupported, "set the indicator", "the light of this server is on or off, it can't blink")
	default:
		return fault.New(fault.Unsupported, "set the indicator", "this BMC shows no indicator light")
	}
}

// wordOfValue is a setting's value as a word: the text, "on" or "off" for a
// truth value.
func wordOfValue(v fleet.Value) string {
	if b, ok := v.Bool(); ok {
		return map[bool]string{true: "on", false: "off"}[b]
	}
	return v.String()
}
