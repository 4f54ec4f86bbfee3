/*
 * A known number of pings between two domains, or between two ports of this domain.
 *
 * The connecting end sends, the listening end answers each event with an event, and the connecting end sends
 * the next: no event is sent while one is pending, so that each is handled separately.
 */
#include "guest.h"

static enum role role;
static u32 connected_port, listening_port;
static u64 pings, sent;
static volatile u64 answered, ended;

static void send(u32 port)
{
	COUNT(ping_sent);
	events_send(port);
}

static u32 listen(u64 peer)
{
	struct evtchn_alloc_unbound alloc = {.dom = DOMID_SELF, .remote_dom = peer};
	if (hypercall(XEN_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, (u64)&alloc, 0))
		refuse("cannot listen to the peer", "");
	return alloc.port;
}

static u32 connect(u64 peer, u64 port)
{
	struct evtchn_bind_interdomain bind = {.remote_dom = peer, .remote_port = port};
	if (hypercall(XEN_EVENT_CHANNEL_OP, EVTCHNOP_BIND_INTERDOMAIN, (u64)&bind, 0))
		refuse("cannot connect to the peer", "");
	return bind.local_port;
}

/* Start once everything that the role needs is known. */
void ping_start(enum role wanted, u64 peer, u64 port, u64 count)
{
	if (wanted == ROLE_SELF)
		peer = DOMID_SELF;
	if (role || !wanted || peer == UNKNOWN || (wanted == ROLE_CONNECT && port == UNKNOWN))
		return;
	pings = count;
	if (wanted != ROLE_CONNECT)
		listening_port = port = listen(peer);
	if (wanted != ROLE_LISTEN)
		connected_port = connect(peer, port);
	if (listening_port) {
		events_open(listening_port);
		print("xtrace-guest: port ");
		print_number(listening_port);
		print("\n");
		console_notify();
	}
	role = wanted;
	if (connected_port) {
		events_open(connected_port);
		if (pings) {
			sent = 1;
			send(connected_port);
		}
	}
}

int ping_done(void)
{
	return role && (role == ROLE_CONNECT || answered == pings) && (role == ROLE_LISTEN || ended == pings);
}

void ping_event(u32 port)
{
	if (port == listening_port && port) {
		COUNT(ping_event);
		answered++;
		send(port);
	} else if (port == connected_port && port) {
		COUNT(ping_event);
		ended++;
		if (sent < pings) {
			sent++;
			send(port);
		}
	}
}
