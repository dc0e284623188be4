//! Copies of contexts: what a snapshot hands out while the session goes on.

use protocol_spec::context::{
    ChildSa, ChildSeed, Context, IkeKeys, IkeSa, IkeSecrets, InboundSa, OutboundSa, ReplacedSa,
};

/// A second copy of a context, with its keys.
pub(crate) fn duplicate(context: &Context) -> Context {
    Context {
        session: context.session,
        generation: context.generation,
        ike: context.ike.as_ref().map(duplicate_ike),
        children: context.children.iter().map(duplicate_child).collect(),
        load: context.load,
    }
}

fn duplicate_ike(ike: &IkeSa) -> IkeSa {
    let secrets = match &ike.secrets {
        IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } => {
            IkeSecrets::Seed {
                nonce_initiator: nonce_initiator.clone(),
                nonce_responder: nonce_responder.clone(),
                shared: shared.iter().map(|key| key.duplicate()).collect(),
                replaced: replaced
                    .as_ref()
                    .map(|old| ReplacedSa { prf: old.prf, sk_d: old.sk_d.duplicate() }),
            }
        }
        IkeSecrets::Keys(keys) => IkeSecrets::Keys(IkeKeys {
            sk_d: keys.sk_d.duplicate(),
            sk_ai: keys.sk_ai.duplicate(),
            sk_ar: keys.sk_ar.duplicate(),
            sk_ei: keys.sk_ei.duplicate(),
            sk_er: keys.sk_er.duplicate(),
            sk_pi: keys.sk_pi.duplicate(),
            sk_pr: keys.sk_pr.duplicate(),
        }),
    };
    IkeSa {
        transforms: ike.transforms.clone(),
        secrets,
        local_id: ike.local_id.clone(),
        remote_id: ike.remote_id.clone(),
        eap_identity: ike.eap_identity.clone(),
        peer_addresses: ike.peer_addresses.clone(),
        virtual_ips: ike.virtual_ips.clone(),
        configuration: ike.configuration.clone(),
        native: ike.native.clone(),
        ..*ike
    }
}

fn duplicate_child(child: &ChildSa) -> ChildSa {
    ChildSa {
        configuration: child.configuration.clone(),
        transforms: child.transforms.clone(),
        inbound: InboundSa {
            keys: child.inbound.keys.duplicate(),
            window: child.inbound.window.clone(),
            ..child.inbound
        },
        outbound: OutboundSa { keys: child.outbound.keys.duplicate(), ..child.outbound },
        policies: child.policies.clone(),
        lifetime: child.lifetime.clone(),
        seed: child.seed.as_ref().map(ChildSeed::duplicate),
        ..*child
    }
}
