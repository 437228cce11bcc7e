package message

// registry is the version of the Base message registry that bmcweb speaks.
const registry = "Base.1.19."

// template is a message of the registry: its text with %1, %2 … for the
// arguments, its severity, and what to do.
type template struct{ text, severity, resolution string }

// Severities, which are also the healths of a resource.
const (
	OK       = "OK"
	Warning  = "Warning"
	Critical = "Critical"
)

const (
	fixProperty = "Correct the value for the property in the request body and resubmit the request if the operation failed."
	addProperty = "Add properties in the JSON object and resubmit the request."
)

// templateOf finds a message by its key. The texts are those of DMTF's Base
// 1.19 registry: clients show them, so they must be the real ones.
func templateOf(key string) template {
	switch key {
	case "Success":
		return template{"The request completed successfully.", OK, "None."}
	case "Created":
		return template{"The resource was created successfully.", OK, "None."}
	case "AccountRemoved":
		return template{"The account was successfully removed.", OK, "None."}
	case "ActionParameterNotSupported":
		return template{"The parameter %1 for the action %2 is not supported on the target resource.", Warning, "Remove the parameter supplied and resubmit the request if the operation failed."}
	case "ActionParameterUnknown":
		return template{"The action %1 was submitted with the invalid parameter %2.", Warning, "Correct the invalid action parameter and resubmit the request if the operation failed."}
	case "EmptyJSON":
		return template{"The request body submitted contained an empty JSON object and the service is unable to process it.", Warning, addProperty}
	case "NoOperation":
		return template{"The request body submitted contain no data to act upon and no changes to the resource took place.", Warning, addProperty}
	case "MalformedJSON":
		return template{"The request body submitted was malformed JSON and could not be parsed by the receiving service.", Critical, "Ensure that the request body is valid JSON and resubmit the request."}
	case "UnrecognizedRequestBody":
		return template{"The service detected a malformed request body that it was unable to interpret.", Warning, "Correct the request body and resubmit the request if it failed."}
	case "EventSubscriptionLimitExceeded":
		return template{"The event subscription failed due to the number of simultaneous subscriptions exceeding the limit of the implementation.", Critical, "Reduce the number of other subscriptions before trying to establish the event subscription or increase the limit of simultaneous subscriptions, if supported."}
	case "EventBufferExceeded":
		return template{"Undelivered events may have been lost due to exceeding the event buffer.", Warning, "None."}
	case "InsufficientPrivilege":
		return template{"There are insufficient privileges for the account or credentials associated with the current session to perform the requested operation.", Critical, "Either abandon the operation or change the associated access rights and resubmit the request if the operation failed."}
	case "OperationNotAllowed":
		return template{"The HTTP method is not allowed on this resource.", Critical, "None."}
	case "ResourceCannotBeDeleted":
		return template{"The delete request failed because the resource requested cannot be deleted.", Critical, "Do not attempt to delete a non-deletable resource."}
	case "PreconditionFailed":
		return template{"The ETag supplied did not match the ETag required to change this resource.", Critical, "Try the operation again using the appropriate ETag."}
	case "QueryParameterValueFormatError":
		return template{"The value '%1' for the parameter %2 is not a format that the parameter can accept.", Warning, "Correct the value for the query parameter in the request and resubmit the request if the operation failed."}
	case "QueryNotSupportedOnResource":
		return template{"Querying is not supported on the requested resource.", Warning, "Remove the query parameters and resubmit the request if the operation failed."}
	case "ResourceNotFound":
		return template{"The requested resource of type %1 named '%2' was not found.", Critical, "Provide a valid resource identifier and resubmit the request."}
	case "ResourceMissingAtURI":
		return template{"The resource at the URI '%1' was not found.", Critical, "Place a valid resource at the URI or correct the URI and resubmit the request."}
	case "ResourceAlreadyExists":
		return template{"The requested resource of type %1 with the property %2 with the value '%3' already exists.", Critical, "Do not repeat the create operation as the resource was already created."}
	case "ResourceAtUriUnauthorized":
		return template{"While accessing the resource at '%1', the service received an authorization error '%2'.", Critical, "Ensure that the appropriate access is provided for the service in order for it to access the URI."}
	case "ServiceTemporarilyUnavailable":
		return template{"The service is temporarily unavailable.  Retry in %1 seconds.", Critical, "Wait for the indicated retry duration and retry the operation."}
	}
	return propertyTemplate(key)
}

func propertyTemplate(key string) template {
	switch key {
	case "ActionNotSupported":
		return template{"The action %1 is not supported by the resource.", Critical, "The action supplied cannot be resubmitted to the implementation.  Perhaps the action was invalid, the wrong resource was the target or the implementation documentation may be of assistance."}
	case "PasswordChangeRequired":
		return template{"The password provided for this account must be changed before access is granted.  PATCH the Password property for this account located at the target URI '%1' to complete this process.", Critical, "Change the password for this account using a PATCH to the Password property at the URI provided."}
	case "StrictAccountTypes":
		return template{"The request was not possible to fulfill with the account types included in property '%1' and property 'StrictAccountTypes' set to true.", Warning, "Resubmit the request either with an acceptable set of AccountTypes and OEMAccountTypes or with StrictAccountTypes set to false."}
	case "PropertyMissing":
		return template{"The property %1 is a required property and must be included in the request.", Warning, "Ensure that the property is in the request body and has a valid value and resubmit the request if the operation failed."}
	case "PropertyNotWritable":
		return template{"The property %1 is a read-only property and cannot be assigned a value.", Warning, "Remove the property from the request body and resubmit the request if the operation failed."}
	case "PropertyUnknown":
		return template{"The property %1 is not in the list of valid properties for the resource.", Warning, "Remove the unknown property from the request body and resubmit the request if the operation failed."}
	case "PropertyValueConflict":
		return template{"The property '%1' could not be written because its value would conflict with the value of the '%2' property.", Warning, "None."}
	case "PropertyValueFormatError":
		return template{"The value '%1' for the property %2 is not a format that the property can accept.", Warning, fixProperty}
	case "PropertyValueExternalConflict":
		return template{"The property '%1' with the requested value of '%2' could not be written because the value is not available due to a configuration conflict.", Warning, "None."}
	case "PropertyValueIncorrect":
		return template{"The property '%1' with the requested value of '%2' could not be written because the value does not meet the constraints of the implementation.", Warning, "None."}
	case "PropertyValueModified":
		return template{"The property %1 was assigned the value '%2' due to modification by the service.", Warning, "None."}
	case "PropertyValueNotInList":
		return template{"The value '%1' for the property %2 is not in the list of acceptable values.", Warning, "Choose a value from the enumeration list that the implementation can support and resubmit the request if the operation failed."}
	case "PropertyValueOutOfRange":
		return template{"The value '%1' for the property %2 is not in the supported range of acceptable values.", Warning, fixProperty}
	case "PropertyValueTypeError":
		return template{"The value '%1' for the property %2 is not a type that the property can accept.", Warning, fixProperty}
	case "InternalError":
		return template{"The request failed due to an internal service error.  The service is still operational.", Critical, "Resubmit the request.  If the problem persists, consider resetting the service."}
	}
	return templateOf("InternalError") // a key that is in no registry is a mistake inside
}
