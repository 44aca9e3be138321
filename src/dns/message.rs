//! From questions to messages: flags, EDNS, truncation.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};

/// Longest UDP message sent, whatever the client says it can take: what passes
/// everywhere without being fragmented.
const UDP_LIMIT: u16 = 1232;
/// Longest UDP message clients without EDNS take.
const PLAIN_LIMIT: u16 = 512;

/// A question that deserves an answer.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    metadata: Metadata,
    pub(crate) query: Query,
    /// What the client can take over UDP, with EDNS.
    payload: Option<u16>,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Not worth an answer: no DNS, or an answer itself.
    Noise,
    /// Answered without looking further.
    Refused(Vec<u8>),
    /// To be answered.
    Question(Question),
}

/// Makes sense of a message.
pub(crate) fn parse(bytes: &[u8]) -> Incoming {
    let Ok(message) = Message::from_vec(bytes) else {
        return match bytes.first_chunk::<12>() {
            // A query as far as can be seen: say that it is malformed.
            Some(header) if header[2] & 0x80 == 0 => {
                let id = u16::from_be_bytes([header[0], header[1]]);
                refuse(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
            }
            _ => Incoming::Noise,
        };
    };
    if message.metadata.message_type == MessageType::Response {
        return Incoming::Noise;
    }
    let answer = |code: ResponseCode| {
        let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
        answer.metadata = Metadata::response_from_request(&message.metadata);
        answer.metadata.response_code = code;
        answer.add_queries(message.queries.iter().cloned());
        answer
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(answer(ResponseCode::NotImp));
    }
    if let Some(edns) = &message.edns
        && edns.version() > 0
    {
        let mut answer = answer(ResponseCode::BADVERS);
        let mut ours = Edns::new();
        ours.set_max_payload(UDP_LIMIT).set_rcode_high(1);
        answer.set_edns(ours);
        return refuse(answer);
    }
    let [query] = message.queries.as_slice() else {
        return refuse(answer(ResponseCode::FormErr));
    };
    if query.query_class() != DNSClass::IN {
        return refuse(answer(ResponseCode::Refused));
    }
    Incoming::Question(Question {
        metadata: message.metadata,
        query: query.clone(),
        payload: message.edns.as_ref().map(Edns::max_payload),
    })
}

fn refuse(message: Message) -> Incoming {
    message.to_vec().map_or(Incoming::Noise, Incoming::Refused)
}

/// What an answer says.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    /// Whether it is about the cluster domain.
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Answer {
    /// An answer without records.
    pub(crate) fn failure(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

impl Question {
    /// Longest message the client takes over UDP.
    fn limit(&self) -> usize {
        self.payload
            .map_or(PLAIN_LIMIT, |size| size.clamp(PLAIN_LIMIT, UDP_LIMIT))
            .into()
    }

    /// The answer as bytes; over UDP cut to what the client takes.
    pub(crate) fn answer(&self, answer: Answer, udp: bool) -> Vec<u8> {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.recursion_available = true;
        message.metadata.authoritative = answer.authoritative;
        message.metadata.response_code = answer.code;
        message.add_query(self.query.clone());
        message.add_answers(answer.answers);
        message.add_authorities(answer.authorities);
        message.add_additionals(answer.additionals);
        if self.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LIMIT);
            message.set_edns(edns);
        }
        let fits = |bytes: &Vec<u8>| !udp || bytes.len() <= self.limit();
        let whole = message.to_vec().unwrap_or_default();
        if fits(&whole) && !whole.is_empty() {
            return whole;
        }
        // Additional records are a courtesy; without answers the client asks over TCP.
        message.additionals.clear();
        message
            .to_vec()
            .ok()
            .filter(fits)
            .unwrap_or_else(|| message.truncate().to_vec().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, RecordType};

    use super::*;

    fn question(payload: Option<u16>) -> Question {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(
            Name::from_ascii("WeB.x.").unwrap(),
            RecordType::A,
        ));
        if let Some(size) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        match parse(&message.to_vec().unwrap()) {
            Incoming::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn answer(records: u8) -> Answer {
        let name = Name::from_ascii("web.x.").unwrap();
        let records = (0..records)
            .map(|at| {
                let ip = Ipv4Addr::new(10, 0, 0, at);
                Record::from_rdata(name.clone(), 5, RData::A(A(ip)))
            })
            .collect();
        Answer {
            answers: records,
            authoritative: true,
            ..Answer::failure(ResponseCode::NoError)
        }
    }

    #[test]
    fn cuts_what_the_client_cannot_take() {
        for (payload, records, udp, cut) in [
            (None, 20, true, false),
            (None, 40, true, true),
            (Some(4096), 40, true, false),
            (Some(4096), 100, true, true),
            (Some(100), 20, true, false),
            (None, 200, false, false),
        ] {
            let bytes = question(payload).answer(answer(records), udp);
            let message = Message::from_vec(&bytes).unwrap();
            let case = format!("{payload:?} {records} {udp}");
            assert_eq!(message.metadata.truncation, cut, "{case}");
            assert_eq!(
                message.answers.len(),
                if cut { 0 } else { records.into() },
                "{case}"
            );
            assert_eq!(message.edns.is_some(), payload.is_some(), "{case}");
            assert_eq!(message.queries[0].name().to_ascii(), "WeB.x.", "{case}");
            assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
        }
    }

    #[test]
    fn refuses_what_it_does_not_do() {
        let mut two = Message::query();
        let query = Query::query(Name::from_ascii("x.").unwrap(), RecordType::A);
        two.add_query(query.clone()).add_query(query.clone());
        let mut chaos = Message::query();
        let mut query = query;
        query.set_query_class(DNSClass::CH);
        chaos.add_query(query);
        let mut update = Message::query();
        update.metadata.op_code = OpCode::Update;
        for (message, code) in [
            (two.to_vec().unwrap(), ResponseCode::FormErr),
            (chaos.to_vec().unwrap(), ResponseCode::Refused),
            (update.to_vec().unwrap(), ResponseCode::NotImp),
            (
                vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 200],
                ResponseCode::FormErr,
            ),
        ] {
            let Incoming::Refused(bytes) = parse(&message) else {
                panic!("{message:?}")
            };
            assert_eq!(
                Message::from_vec(&bytes).unwrap().metadata.response_code,
                code
            );
        }
        for noise in [
            &[][..],
            &[1, 2, 3],
            &[0, 9, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(matches!(parse(noise), Incoming::Noise), "{noise:?}");
        }
    }
}
