package host

func asDaemon() {}
