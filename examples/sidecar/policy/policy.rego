# METADATA
# title: Egress
# description: Where an agent may go. Everything that no rule allows is denied.
package portcullis

# METADATA
# title: The verdict
# description: What the gate asks for. `reasons` says why a request is denied, for the record.
# entrypoint: true
default decision := {"allowed": false, "reasons": ["no_policy"]}

decision := {"allowed": true, "lease": {"max_age": "1h"}} if count(reasons) == 0

decision := {"allowed": false, "reasons": sort([reason | some reason in reasons])} if count(reasons) > 0

# METADATA
# title: Why not
# description: Each rule names one reason to deny. A request passes when there is none.
reasons contains "destination_not_granted" if not granted

# The gate has refused private addresses already, unless the destination's entry names them.
reasons contains "plain_text_to_strangers" if {
	input.action.protocol == "http"
	not input.destination.private
}

reasons contains "read_only" if {
	input.action.protocol == "http"
	not input.request.method in {"GET", "HEAD"}
}

granted if {
	some grant in data.portcullis.egress
	input.destination.host in grant.hosts
	input.destination.port in grant.ports
}
