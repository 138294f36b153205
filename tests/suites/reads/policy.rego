package app

default allow := false

allow if {
	input.method == "GET"
	known
}

allow if {
	admin
	print("admin", input.user)
}

known if input.user in data.users

admin if data.roles[input.user] == "admin"

path(segments) := concat("/", segments)

never if input.never

label := "read" if {
	input.method == "GET"
} else := "write" if {
	input.method == "POST"
} else := "other"
