package mocks

import data.sub.deep

now := time.now_ns()

old if now < 1000

double(x) := x * 2

big(x) if double(x) > deep.limit

total := sum([n | some n in deep.names])

by_name[name] := n if some name, n in deep.names

servers.eu.count := 2

servers.us.count := count(by_name)

deny contains msg if {
	some name, n in deep.names
	n > 1
	msg := sprintf("%s is %d", [name, n])
}

level := "high" if {
	total > 10
} else := "mid" if {
	total > 2
} else := "low"

ratio := total / input.by
