#!/usr/bin/env python3
"""An independent decoder of protocol version 1, written from ../spec alone.

It decodes every vector's frame, compares it with the vector's message, and
checks that the invalid ones are refused for their reason and that the tokens
are computed as the text says. Needs Python 3.8 and nothing else.

    python3 check.py [FOLDER]
"""
import hashlib
import hmac
import ipaddress
import json
import pathlib
import sys


class Bad(Exception):
    """A frame is refused, for the reason that vectors name."""


# --- section 3: encoding ------------------------------------------------------

class Octets:
    """Octets that are read from the front."""

    def __init__(self, octets):
        self.rest = octets

    def take(self, count):
        if count > 1 << 40:
            raise Bad("oversized")
        if count > len(self.rest):
            raise Bad("truncated")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


def u8(octets):
    return octets.take(1)[0]


def integer(bits):
    def read(octets):
        first = u8(octets)
        if first <= 250:
            return first
        width = {251: 2, 252: 4, 253: 8}.get(first)
        if width is None or width * 8 > bits:
            raise Bad("bad-value")
        value = int.from_bytes(octets.take(width), "little")
        if value <= 250 or (width > 2 and value < 1 << (width * 4)):
            raise Bad("not-canonical")
        return value
    return read


u16, u32, u64 = integer(16), integer(32), integer(64)


def shown(read):
    """An integer as JSON shows it."""
    def show(octets):
        value = read(octets)
        return value if value < 1 << 53 else str(value)
    return show


def boolean(octets):
    value = u8(octets)
    if value > 1:
        raise Bad("bad-value")
    return value == 1


def raw(octets):
    return octets.take(u64(octets))


def hexa(octets):
    return raw(octets).hex()


def key(octets):
    taken = raw(octets)
    if len(taken) > 1024:
        raise Bad("bad-value")
    return taken.hex()


def text(octets):
    try:
        return raw(octets).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Bad("bad-value") from error


def name(octets):
    value = text(octets)
    if not 1 <= len(value) <= 64 or set(value) - set("abcdefghijklmnopqrstuvwxyz0123456789-."):
        raise Bad("bad-value")
    return value


def fixed(count):
    return lambda octets: octets.take(count).hex()


def option(inner):
    return lambda octets: inner(octets) if boolean(octets) else None


def sequence(inner):
    def read(octets):
        count = u64(octets)
        if count > 1 << 40:
            raise Bad("oversized")
        return [inner(octets) for _ in range(count)]
    return read


def ascending(inner):
    def read(octets):
        elements = sequence(inner)(octets)
        if any(a >= b for a, b in zip(elements, elements[1:])):
            raise Bad("not-canonical")
        return elements
    return read


def pair(*inner):
    return lambda octets: [read(octets) for read in inner]


def structure(**fields):
    return lambda octets: {field: read(octets) for field, read in fields.items()}


def choice(*variants):
    """Each variant is a name, or a name and what it holds."""
    def read(octets):
        number = u32(octets)
        if number >= len(variants):
            raise Bad("bad-value")
        variant = variants[number]
        if isinstance(variant, str):
            return variant
        return {variant[0]: variant[1](octets)}
    return read


def duration(octets):
    seconds, nanoseconds = N64(octets), u32(octets)
    if nanoseconds >= 1_000_000_000:
        raise Bad("not-canonical")
    return {"seconds": seconds, "nanoseconds": nanoseconds}


def ip(octets):
    version = u32(octets)
    if version > 1:
        raise Bad("bad-value")
    return str(ipaddress.ip_address(octets.take([4, 16][version])))


def endpoint(octets):
    return {"address": ip(octets), "port": u16(octets)}


def refusal(octets):
    status, detail = u16(octets), text(octets)
    if len(detail.encode()) > 256:
        raise Bad("bad-value")
    return {"status": status, "detail": detail}


ID = MAC = fixed(16)
N64 = shown(u64)

# --- section 5: context -------------------------------------------------------

mode_of_transfer = choice("Predictive", "Reactive")
protocol = choice("Esp", "Ah")
sa = structure(protocol=protocol, inbound_spi=u32)
window = structure(size=u32, highest=N64, bitmap=sequence(u32))
keys = structure(encryption=key, integrity=key)
selector = structure(prefix=structure(address=ip, bits=u8), ports=pair(u16, u16))
identification = structure(kind=u8, data=hexa)
used = structure(octets=pair(N64, N64), packets=pair(N64, N64), age=duration,
                 since_first_use=option(duration))
limit = structure(octets=option(N64), packets=option(N64), age=option(duration),
                  since_first_use=option(duration))
ike_transforms = structure(encryption=u16, key_bits=u16, integrity=u16, prf=u16, key_exchange=u16)
child_transforms = structure(encryption=u16, key_bits=u16, integrity=u16)
side_effects = structure(hooks=boolean, accounting=boolean)
secrets = choice(
    ("Seed", structure(nonce_initiator=hexa, nonce_responder=hexa, shared=sequence(key),
                       replaced=option(structure(prf=u16, sk_d=key)))),
    ("Keys", structure(sk_d=key, sk_ai=key, sk_ar=key, sk_ei=key, sk_er=key, sk_pi=key, sk_pr=key)),
)
ike_sa = structure(
    spi_initiator=N64, spi_responder=N64, initiator=boolean, version=u8,
    transforms=ike_transforms, secrets=secrets, window=u32, next_send=u32, next_receive=u32,
    local_id=identification, remote_id=identification, eap_identity=option(text),
    authentication=choice(("Method", u8), ("Eap", u8)), local=endpoint, remote=endpoint,
    nat=structure(local=boolean, remote=boolean),
    extensions=structure(mobike=boolean, fragmentation=boolean, message_id_sync=boolean,
                         replay_counter_sync=boolean, redirect=boolean),
    peer_addresses=sequence(ip), virtual_ips=sequence(structure(address=ip, pool=text)),
    rekey_in=option(duration), reauthenticate_in=option(duration), expire_in=option(duration),
    configuration=text, side_effects=side_effects,
    native=option(structure(dialect=text, conditions=u32, extensions=u32)),
)
child_sa = structure(
    protocol=protocol, mode=choice("Tunnel", "Transport", "Beet"), configuration=text, reqid=u32,
    cpi=option(pair(u16, u16)), transforms=child_transforms, esn=boolean,
    inbound=structure(spi=u32, keys=keys, window=window),
    outbound=structure(spi=u32, keys=keys, sequence=N64),
    policies=sequence(structure(direction=choice("In", "Out", "Forward"), priority=u32,
                                source=selector, destination=selector, protocol=u8)),
    encapsulation=option(structure(local_port=u16, remote_port=u16)), pmtu=option(u32),
    mark=option(structure(value=u32, mask=u32)), if_id=option(u32),
    lifetime=structure(used=used, soft=limit, hard=limit), rekey_in=option(duration),
    seed=option(structure(initiator=boolean, nonce_initiator=hexa, nonce_responder=hexa,
                          shared=sequence(key))),
    endpoints=option(structure(local=ip, remote=ip)),
)
context = structure(
    session=ID, generation=N64, ike=option(ike_sa), children=sequence(child_sa),
    load=structure(packets_per_second=u32, octets_per_second=N64),
)
finals = structure(
    generation=N64,
    ike=option(structure(next_send=u32, next_receive=u32, last_response=option(hexa))),
    children=sequence(structure(sa=sa, sequence=N64, window=window, used=used)),
)

# --- section 7: authorization -------------------------------------------------

token_claims = structure(session=option(ID), ike_spis=pair(N64, N64), source=name, target=name,
                         mode=mode_of_transfer, sequence=N64, expires=N64)
order_claims = structure(id=ID, controller=name, sessions=sequence(ID), source=name, target=name,
                         expires=N64)
authority = choice(
    ("Token", structure(claims=token_claims, mac=MAC)),
    ("Order", structure(claims=order_claims, signature=hexa)),
    ("Known", ID),
    "Standby",
)

# --- section 4: messages ------------------------------------------------------

refused = sequence(pair(ID, refusal))
ctdr_entry = structure(session=ID, epoch=N64, state=choice(
    ("Staged", structure(generation=N64)),
    ("Refused", structure(refusal=refusal, known=N64)),
    "Active",
    ("Aborted", refusal),
))
capabilities = structure(
    features=N64, child_transforms=ascending(pair(u16, u16, u16)),
    ike_transforms=ascending(pair(u16, u16, u16, u16, u16)),
    max_replay_window=u32, max_sessions=N64,
)
profile = structure(
    session=ID, generation=N64, features=N64, ike_spis=option(pair(N64, N64)),
    ike_transforms=option(ike_transforms), configuration=text, side_effects=side_effects,
    virtual_ips=sequence(ip),
    children=sequence(structure(
        usage=structure(sa=sa, sequence=N64, rate=u32, esn=boolean), transforms=child_transforms,
        replay_window=u32, reqid=u32, destinations=sequence(selector))),
)
# Type: name, body, the field whose elements are its entries.
MESSAGES = {
    0x01: ("Ctar", structure(request=ID, source=name, target=name, mode=mode_of_transfer,
                             sessions=sequence(ID), authority=authority), "sessions"),
    0x02: ("Ctaa", structure(request=ID, refused=refused), "refused"),
    0x03: ("Ctd", structure(batch=ID, entries=sequence(
        structure(session=ID, epoch=N64, finals=finals))), "entries"),
    0x04: ("Pctd", structure(batch=ID, mode=mode_of_transfer, entries=sequence(
        structure(epoch=N64, grants=sequence(structure(sa=sa, base=N64, end=N64)),
                  context=context))), "entries"),
    0x05: ("Ctdr", structure(batch=ID, entries=sequence(ctdr_entry)), "entries"),
    0x06: ("Ctc", structure(batch=ID, entries=sequence(pair(ID, N64)), reason=refusal), "entries"),
    0x07: ("CtReq", structure(request=ID, sessions=sequence(ID), authority=authority), "sessions"),
    0x20: ("Hello", structure(versions=pair(u16, u16), name=name, epoch=N64,
                              lane=choice("Control", "Bulk"),
                              capabilities=option(capabilities)), None),
    0x21: ("Heartbeat", structure(number=N64, epoch=N64, echo=option(pair(N64, N64))), None),
    0x22: ("Query", structure(request=ID, transfers=sequence(pair(ID, N64, ID))), "transfers"),
    0x23: ("QueryAnswer", structure(request=ID, entries=sequence(ctdr_entry)), "entries"),
    0x24: ("Preflight", structure(request=ID, profiles=sequence(profile)), "profiles"),
    0x25: ("PreflightAnswer", structure(request=ID, refused=refused), "refused"),
    0x26: ("Grant", structure(entries=sequence(pair(ID, N64, sequence(pair(sa, N64))))), "entries"),
    0x27: ("Bye", structure(reason=refusal), None),
    0x40: ("ReplicaDelta", structure(number=N64, complete=boolean, entries=sequence(
        structure(session=ID, epoch=N64, context=option(context)))), "entries"),
    0x41: ("ReplicaAck", structure(number=N64), None),
}


def decode(read, octets):
    rest = Octets(octets)
    value = read(rest)
    if rest.rest:
        raise Bad("trailing")
    return value


def decode_frame(frame):
    """The message of a frame as JSON shows it, or None for one that is skipped."""
    if len(frame) < 8:
        raise Bad("length")
    kind, flags, length = frame[0], frame[1], int.from_bytes(frame[4:8], "big")
    if length > 1 << 20:
        raise Bad("too-long")
    if len(frame) != 8 + length:
        raise Bad("length")
    if kind not in MESSAGES:
        if flags & 0x80:
            raise Bad("unknown-critical")
        return None
    message, body, entries = MESSAGES[kind]
    value = decode(body, frame[8:])
    if entries and len(value[entries]) > 1024:
        raise Bad("too-many-entries")
    return {message: value}


# --- the vectors --------------------------------------------------------------

def token_mac(sk_d, prf, claims):
    function = {2: hashlib.sha1, 5: hashlib.sha256, 6: hashlib.sha384, 7: hashlib.sha512}[prf]
    label = b"cxtp/1 token"
    derived = hmac.new(sk_d, label + b"\x01", function).digest()
    return hmac.new(derived, label + claims, function).digest()[:16]


def check_valid(vector):
    return decode_frame(bytes.fromhex(vector["frame"])) == vector["message"]


def check_invalid(vector):
    try:
        decode_frame(bytes.fromhex(vector["frame"]))
    except Bad as bad:
        return str(bad) == vector["error"]
    return False


def check_signed(vector):
    encoded = bytes.fromhex(vector["claims_encoded"])
    claims = token_claims if "mac" in vector else order_claims
    if decode(claims, encoded) != vector["claims"]:
        return False
    if "mac" not in vector:
        return len(vector["signature"]) == 128  # Ed25519 is not in Python's library
    return token_mac(bytes.fromhex(vector["sk_d"]), vector["prf"], encoded).hex() == vector["mac"]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    folder = folder if folder.is_dir() else folder.parent
    counts, failed = [], []
    for kind, check in [("valid", check_valid), ("invalid", check_invalid), ("signed", check_signed)]:
        files = sorted((folder / kind).glob("*.json"))
        counts.append(f"{len(files)} {kind}")
        for file in files:
            vector = json.loads(file.read_text(encoding="utf-8"))
            try:
                agrees = check(vector)
            except Bad:
                agrees = False
            if not agrees:
                failed.append(f"{kind}/{file.stem}")
    print(", ".join(counts))
    for vector in failed:
        print(f"does not agree: {vector}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
