# The reference policy of the benches: what a grown policy asks of a request. 10,000 agents and their roles are in data.bench.
package portcullis

default decision := {"allowed": false, "reasons": ["undecided"]}

decision := {"allowed": true} if count(reasons) == 0

decision := {"allowed": false, "reasons": [reason | some reason in reasons]} if count(reasons) > 0

agent := data.bench.agents[input.peer.spiffe_id]

role := data.bench.roles[agent.role]

reasons contains "not_an_agent" if not startswith(input.peer.spiffe_id, "spiffe://example.org/agents/")

reasons contains "unknown_agent" if not agent

reasons contains "grant_ended" if not agent.expires > input.time.seconds

reasons contains "revoked" if agent.revoked

reasons contains "risky" if agent.risk > data.bench.risk_threshold

reasons contains "method" if not method_granted

reasons contains "path" if not path_granted

reasons contains "network" if not from_known_network

reasons contains "closed" if not data.bench.open

reasons contains "destroys" if {
	input.request.method == "DELETE"
	not role.may_destroy
}

method_granted if role.methods[input.request.method]

path_granted if glob.match("/v1/users/*", ["/"], input.request.path)

path_granted if glob.match("/v1/reports/**", ["/"], input.request.path)

path_granted if glob.match("/v1/*/export", ["/"], input.request.path)

path_granted if input.request.segments[0] == "ticks"

path_granted if input.request.segments[0] == "ws"

path_granted if input.request.segments[0] == "big"

path_granted if input.request.segments == ["v1", "notes"]

from_known_network if net.cidr_contains("10.0.0.0/8", input.connection.address)

from_known_network if net.cidr_contains("172.16.0.0/12", input.connection.address)

from_known_network if net.cidr_contains("192.168.0.0/16", input.connection.address)

from_known_network if net.cidr_contains("100.64.0.0/10", input.connection.address)

from_known_network if net.cidr_contains("198.18.0.0/15", input.connection.address)

from_known_network if net.cidr_contains("203.0.113.0/24", input.connection.address)

from_known_network if net.cidr_contains("198.51.100.0/24", input.connection.address)

from_known_network if net.cidr_contains("192.0.2.0/24", input.connection.address)

from_known_network if net.cidr_contains("169.254.0.0/16", input.connection.address)

from_known_network if net.cidr_contains("127.0.0.0/8", input.connection.address)
