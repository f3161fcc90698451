package ha

import "github.com/devicekeys/devicekeys/secret"

// Configurations are what the nodes of a cluster in dir would be configured with; nothing is started.
func Configurations(dir string) (c *Cluster, files []string, err error) {
	c = &Cluster{dir: dir, bin: "/usr/lib/postgresql/15/bin", superuser: secret.Random(8), replication: secret.Random(8)}
	if err := c.makeNodes(); err != nil {
		return nil, nil, err
	}
	if err := c.makeCertificates(); err != nil {
		return nil, nil, err
	}
	for _, n := range c.nodes {
		if err := c.makeDir(n.dir()); err != nil {
			return nil, nil, err
		}
		if err := n.write(); err != nil {
			return nil, nil, err
		}
		files = append(files, n.config())
	}
	return c, files, nil
}

// Hold locks a folder as a running cluster does.
func Hold(dir string) (release func(), err error) {
	f, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
