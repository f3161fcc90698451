package ha

import (
	"fmt"
	"math/rand/v2"
	"net"
)

const loopback = "127.0.0.1"

// Ports are chosen below those that the system gives to outgoing connections (from 32768 on
// Linux): one of those could take the port of a server that was killed and is started again.
const (
	firstPort = 20000
	lastPort  = 32767
	portTries = 1000
)

// freePorts chooses ports on which nobody listens.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range portTries {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", loopback, firstPort+rand.N(lastPort-firstPort+1)))
		if err != nil {
			continue
		}
		defer l.Close() // all stay open until all are chosen, so that no two are the same
		if ports = append(ports, l.Addr().(*net.TCPAddr).Port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: too many are in use", n, firstPort, lastPort)
}
