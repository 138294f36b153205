package portcullis_test

import data.portcullis

tunnel(host, port) := {
	"action": {"protocol": "connect", "name": "CONNECT"},
	"request": {"method": "CONNECT", "host": host, "port": port, "path": ""},
	"destination": {"host": host, "port": port, "addresses": ["198.51.100.7"], "private": false},
}

plain(method, private) := {
	"action": {"protocol": "http", "name": method},
	"request": {"method": method, "host": "localhost", "port": 8080, "path": "/v1"},
	"destination": {"host": "localhost", "port": 8080, "addresses": ["127.0.0.1"], "private": private},
}

test_the_api_may_be_tunnelled_to if portcullis.decision.allowed with input as tunnel("api.example.com", 443)

test_the_lease_is_an_hour if portcullis.decision.lease.max_age == "1h" with input as tunnel("api.example.com", 443)

test_other_hosts_and_ports_may_not if {
	some destination in [["paste.example.net", 443], ["api.example.com", 22]]
	verdict := portcullis.decision with input as tunnel(destination[0], destination[1])
	verdict == {"allowed": false, "reasons": ["destination_not_granted"]}
}

test_plain_text_goes_to_neighbours_and_only_reads if {
	portcullis.decision.allowed with input as plain("GET", true)
	read := portcullis.decision with input as plain("GET", false)
	read.reasons == ["plain_text_to_strangers"]
	written := portcullis.decision with input as plain("POST", true)
	written.reasons == ["read_only"]
}

test_nothing_is_denied if not portcullis.decision.allowed with input as {}
