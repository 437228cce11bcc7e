package power

// Override is from where the host boots next: Target ("Pxe"), Enabled ("Once",
// "Continuous", "Disabled") and Mode ("UEFI").
type Override struct{ Target, Enabled, Mode string }

// NoOverride lets the host boot as usual.
func NoOverride() Override { return Override{Target: "None", Enabled: "Disabled", Mode: "UEFI"} }

// Boot is what a boot leaves of the override: nothing, if it was for one.
func (o *Override) Boot() {
	if o.Enabled == "Once" {
		o.Enabled, o.Target = "Disabled", "None"
	}
}

// BootTargets are those that OpenBMC knows, in its order.
func BootTargets() []string {
	return []string{"None", "Pxe", "Hdd", "Cd", "Diags", "BiosSetup", "Usb"}
}

// Body is the override as the Boot property of a system.
func (o Override) Body() map[string]any {
	return map[string]any{
		"AutomaticRetryAttempts": 3, "AutomaticRetryConfig": "RetryAttempts",
		"AutomaticRetryConfig@Redfish.AllowableValues":     []string{"Disabled", "RetryAttempts"},
		"BootSourceOverrideEnabled":                        o.Enabled,
		"BootSourceOverrideMode":                           o.Mode,
		"BootSourceOverrideMode@Redfish.AllowableValues":   []string{"Legacy", "UEFI"},
		"BootSourceOverrideTarget":                         o.Target,
		"BootSourceOverrideTarget@Redfish.AllowableValues": BootTargets(),
		"RemainingAutomaticRetryAttempts":                  3,
		"StopBootOnFault":                                  "Never",
		"TrustedModuleRequiredToBoot":                      "Disabled",
	}
}
