package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// greet returns when the ssh server has said hello.
func (g *guest) greet(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", g.SSHPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	text, err := bufio.NewReaderSize(conn, 256).ReadSlice('\n')
	if err == nil && !strings.HasPrefix(string(text), "SSH-") {
		err = fmt.Errorf("read ssh greeting: got %q", text)
	}
	return err
}

func (g *guest) disconnect() {
	if g.ssh != nil {
		g.ssh.Close()
		g.ssh = nil
	}
}

// connect logs in, as soon as that is possible.
func (g *guest) connect(ctx context.Context) error {
	if g.ssh != nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(g.lab.keys(), "ssh_ed25519"))
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if err := g.AwaitSSH(ctx); err != nil {
			return err
		}
		g.ssh, err = ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.SSHPort), &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(), // made anew in each boot
			Timeout:         time.Minute,
		})
		if err == nil {
			return nil
		}
		g.ssh = nil
		select {
		case <-ctx.Done():
			return fmt.Errorf("log in: %w (%w)", context.Cause(ctx), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// run runs a command in the guest and returns what it printed and its exit code, -1 when the
// connection ended first.
func (g *guest) run(ctx context.Context, cmd string, stdout io.Writer) (stderr string, code int, err error) {
	if err := g.connect(ctx); err != nil {
		return "", 0, err
	}
	s, err := g.ssh.NewSession()
	if err != nil {
		g.disconnect()
		return "", 0, fmt.Errorf("run in guest: %w", err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := g.ssh
	defer context.AfterFunc(ctx, func() { client.Close() })()
	defer keepAlive(client)()
	var said bytes.Buffer
	s.Stdout, s.Stderr = stdout, &said
	err = s.Run(cmd)
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil:
		g.disconnect()
		return said.String(), 0, fmt.Errorf("run %s in guest: %w", cmd, context.Cause(ctx))
	case errors.As(err, &exit):
		return said.String(), exit.ExitStatus(), nil
	case err != nil:
		g.disconnect()
		return said.String(), -1, nil
	}
	return said.String(), 0, nil
}

// keepAlive lets a connection notice that the guest behind it is another one by now: an idle one
// would wait for ever.
func keepAlive(c *ssh.Client) (stop func()) {
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if _, _, err := c.SendRequest("keepalive@eos", true, nil); err != nil {
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// must is run for a command that has to end with one of the codes, 0 if there is none.
func (g *guest) must(ctx context.Context, cmd string, codes ...int) (string, error) {
	var out bytes.Buffer
	stderr, code, err := g.run(ctx, cmd, &out)
	if err != nil {
		return "", err
	}
	ok := len(codes) == 0 && code == 0
	for _, c := range codes {
		ok = ok || c == code
	}
	if !ok {
		return "", fmt.Errorf("run %s in guest: exit code %d: %s%s", cmd, code, out.String(), strings.TrimSpace(stderr))
	}
	return strings.TrimSpace(out.String()), nil
}
