package imagespec

import (
	"fmt"
	"reflect"
)

// firstUID is the first user id given to users that are not root.
const firstUID = 1000

// FleetUser is who devices log in as on an update server, whose profile makes the account.
const (
	FleetUser = "fleet"
	FleetUID  = 602
)

// complete fills in the defaults that depend on other values.
func (d *decoder) complete(s *Spec) {
	if !d.set("hostname") {
		s.Hostname = s.Name
	}
	if !d.set("update.name") {
		s.Update.Name = s.Name
	}
	if s.Fleet.On() && !d.set("update.pkey") {
		s.Update.PKey = FleetKey
	}
	for i := range s.Files {
		f := &s.Files[i]
		if !d.set(fmt.Sprintf("files[%d].mode", i)) {
			f.Mode = 0o644
		}
		if !d.set(fmt.Sprintf("files[%d].owner", i)) {
			f.Owner = "root"
		}
		if !d.set(fmt.Sprintf("files[%d].group", i)) {
			f.Group = "root"
		}
	}
	for i := range s.Flakes {
		if !d.set(elem("flakes", i) + ".runas") {
			s.Flakes[i].RunAs = "root"
		}
	}
	server := s.Profile == ProfileServer
	used := map[int]bool{}
	for _, u := range s.Users {
		used[u.UID] = true
	}
	next := firstUID
	for i := range s.Users {
		u := &s.Users[i]
		if !d.set(fmt.Sprintf("users[%d].shell", i)) {
			u.Shell = "/bin/bash"
			if server && u.Name == FleetUser {
				u.Shell = "/bin/sh"
			}
		}
		if u.Name == "root" || d.set(fmt.Sprintf("users[%d].uid", i)) {
			continue
		}
		if server && u.Name == FleetUser {
			u.UID = FleetUID
			continue
		}
		for used[next] {
			next++
		}
		u.UID = next
		used[next] = true
	}
	dropEmpty(reflect.ValueOf(s).Elem())
}

// dropEmpty makes "packages: []" the same as no packages, for Digest.
func dropEmpty(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			dropEmpty(v.Field(i))
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.SetZero()
		}
		for i := range v.Len() {
			dropEmpty(v.Index(i))
		}
	}
}
