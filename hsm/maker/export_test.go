package maker

// CheckContext is what DeviceKey refuses by, without a token.
var CheckContext = checkContext
