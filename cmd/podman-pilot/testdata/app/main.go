// Command app is the application of containers in tests: it does what its arguments say, one
// after the other, and as sleep it sleeps. It is built by the tests and is nowhere else.
package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if filepath.Base(os.Args[0]) == "sleep" {
		sleep()
	}
	for i, step := range os.Args[1:] {
		verb, value, _ := strings.Cut(step, "=")
		if verb == "args" { // the rest, as it came
			fmt.Printf("%q\n", os.Args[i+2:])
			return
		}
		do(verb, value)
	}
}

func do(verb, value string) {
	switch verb {
	case "out":
		fmt.Println(value)
	case "err":
		fmt.Fprintln(os.Stderr, value)
	case "exit":
		os.Exit(number(value))
	case "die": // by a signal
		signal.Reset(syscall.Signal(number(value)))
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number(value)))
		sleep()
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		check(err)
	case "yes": // until nobody reads it
		for {
			if _, err := fmt.Println("yes"); err != nil {
				os.Exit(3)
			}
		}
	case "env":
		fmt.Println(os.Getenv(value))
	case "sleep":
		time.Sleep(time.Duration(number(value)) * time.Millisecond)
	case "forever":
		fmt.Println("ready")
		sleep()
	case "deaf": // to all signals but the last
		signal.Ignore()
		fmt.Println("ready")
		sleep()
	case "catch": // says what signals it gets, until it gets as many
		catch(number(value))
	case "children":
		for range number(value) {
			check(exec.Command("/proc/self/exe", "sleep=1000000").Start())
		}
	case "ticks": // shows that it runs
		for range number(value) {
			fmt.Println("tick")
			time.Sleep(20 * time.Millisecond)
		}
	case "read":
		buf := make([]byte, number(value))
		n, err := io.ReadFull(os.Stdin, buf)
		fmt.Println(hex.EncodeToString(buf[:n]), err)
	case "raw":
		raw()
	case "size":
		fmt.Println(size())
	case "resized":
		resized(value)
	case "terminal":
		fmt.Println(isTerminal(0), isTerminal(1), isTerminal(2))
	case "show":
		show(value)
	case "write":
		check(os.WriteFile(value, []byte("written"), 0o644))
	case "id":
		fmt.Println(os.Getuid(), os.Getgid())
	default:
		fmt.Fprintln(os.Stderr, "unknown step", verb)
		os.Exit(99)
	}
}

func sleep() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGURG) // else all are asleep, which ends a program
	for range c {
	}
}

func catch(n int) {
	c := make(chan os.Signal, 100)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGALRM)
	fmt.Println("ready")
	for range n {
		fmt.Println(int((<-c).(syscall.Signal)))
	}
}

type winsize struct{ rows, columns, x, y uint16 }

func size() string {
	var w winsize
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 1, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&w)))
	if e != 0 {
		return e.Error()
	}
	return fmt.Sprint(w.rows, "x", w.columns)
}

func resized(to string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	fmt.Println("ready")
	for size() != to {
		<-c
	}
	fmt.Println(size())
}

func raw() {
	var t syscall.Termios
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TCGETS, uintptr(unsafe.Pointer(&t)))
	if e == 0 {
		t.Lflag &^= syscall.ICANON | syscall.ISIG | syscall.ECHO | syscall.IEXTEN
		t.Iflag &^= syscall.IXON | syscall.ICRNL
		_, _, e = syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TCSETS, uintptr(unsafe.Pointer(&t)))
	}
	if e != 0 {
		check(e)
	}
	fmt.Println("ready")
}

func isTerminal(fd int) bool {
	var t syscall.Termios
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TCGETS, uintptr(unsafe.Pointer(&t)))
	return e == 0
}

// show says what there is to know of a file.
func show(file string) {
	var st syscall.Stat_t
	if err := syscall.Lstat(file, &st); err != nil {
		fmt.Println(file, "none")
		return
	}
	text := fmt.Sprintf("%s %o %d:%d", file, st.Mode, st.Uid, st.Gid)
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		text += fmt.Sprintf(" links %d", st.Nlink)
	}
	buf := make([]byte, 1000)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		if st.Size < 100 {
			content, _ := os.ReadFile(file)
			text += fmt.Sprintf(" %q", content)
		}
	case syscall.S_IFLNK:
		n, _ := syscall.Readlink(file, buf)
		text += " -> " + string(buf[:n])
	case syscall.S_IFDIR:
		entries, _ := os.ReadDir(file)
		for _, e := range entries {
			text += " " + e.Name()
		}
	}
	for _, name := range []string{"security.capability", "user.note", "system.posix_acl_access"} {
		if n, err := syscall.Getxattr(file, name, buf); err == nil {
			text += fmt.Sprintf(" %s=%x", name, buf[:n])
		}
	}
	fmt.Println(text)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
}
