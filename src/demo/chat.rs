//! State of the chat: participants and conversations.
//!
//! Operations take parsed events of sockets and return the messages to send. They neither send nor
//! wait. All state is bounded: a new conversation replaces the one that has been quiet for longest.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use socketioxide::socket::Sid;

use crate::demo::echo::hex;

const MAX_CONVERSATIONS: usize = 200;
const MAX_MESSAGES: usize = 200;
const MAX_TEXT: usize = 4000;
const MAX_NAME: usize = 60;

/// Which end of a conversation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Party {
    Customer,
    Agent,
}

/// A file sent in a message and stored by the file engine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) url: String,
    #[serde(rename = "type", default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) size: u64,
}

/// One message, as everybody sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Message {
    /// Made by the sender, so that sending again after a reconnect is not saying it again.
    pub(crate) id: String,
    pub(crate) conversation: String,
    pub(crate) from: Party,
    pub(crate) name: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) text: String,
    pub(crate) file: Option<Attachment>,
}

/// A message as its sender sends it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct NewMessage {
    pub(crate) id: String,
    /// Agents say where; a customer has one conversation only.
    #[serde(default)]
    pub(crate) conversation: String,
    #[serde(default)]
    pub(crate) text: String,
    pub(crate) file: Option<Attachment>,
}

/// A conversation in the agents' list.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct ConversationSummary {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) online: bool,
    pub(crate) count: usize,
    pub(crate) last: Option<Message>,
}

/// A participant of the chat.
#[derive(Clone, Debug)]
pub(crate) struct Participant {
    pub(crate) side: Party,
    pub(crate) name: String,
    /// A customer's own; empty for an agent.
    pub(crate) conversation: String,
}

#[derive(Debug, Default)]
struct Conversation {
    name: String,
    messages: VecDeque<Message>,
    /// Counts up with everything that happens, so the smallest has been quiet for longest.
    touched: u64,
}

/// All conversations and everybody in them.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    conversations: HashMap<String, Conversation>,
    sessions: HashMap<Sid, Participant>,
    clock: u64,
}

impl Chat {
    /// A customer comes, or comes back: the same `key` is the same conversation.
    ///
    /// The key stays between the customer and this server; others know the conversation by a digest
    /// of it.
    pub(crate) fn join_customer(&mut self, sid: Sid, key: &str, name: &str) -> Participant {
        let id = hex(digest(&SHA256, key.as_bytes()).as_ref().get(..8).unwrap_or_default());
        // Distinguishes participants that gave no name.
        let unnamed = format!("Customer {}", id.get(..4).unwrap_or_default());
        let name = or_default(name, &unnamed);
        if !self.conversations.contains_key(&id) {
            self.make_room();
        }
        self.clock += 1;
        let conversation = self.conversations.entry(id.clone()).or_default();
        conversation.name.clone_from(&name);
        conversation.touched = self.clock;
        let session = Participant { side: Party::Customer, name, conversation: id };
        self.sessions.insert(sid, session.clone());
        session
    }

    /// An agent comes.
    pub(crate) fn join_agent(&mut self, sid: Sid, name: &str) -> Participant {
        let session = Participant {
            side: Party::Agent,
            name: or_default(name, "Agent"),
            conversation: String::new(),
        };
        self.sessions.insert(sid, session.clone());
        session
    }

    /// Removes the participant of a closed connection.
    pub(crate) fn leave(&mut self, sid: Sid) -> Option<Participant> {
        self.sessions.remove(&sid)
    }

    pub(crate) fn session(&self, sid: Sid) -> Option<&Participant> {
        self.sessions.get(&sid)
    }

    /// Adds a message. Returns `None` if the sender may not write, or if the message is empty.
    ///
    /// A repeated id returns the message stored the first time.
    pub(crate) fn say(&mut self, speaker: Sid, said: NewMessage) -> Option<Message> {
        let session = self.sessions.get(&speaker)?;
        let id = match session.side {
            Party::Customer => session.conversation.clone(),
            Party::Agent => said.conversation,
        };
        let conversation = self.conversations.get_mut(&id)?;
        if let Some(kept) = conversation.messages.iter().find(|kept| kept.id == said.id) {
            return Some(kept.clone());
        }
        let text: String = said.text.trim().chars().take(MAX_TEXT).collect();
        let file = said.file.filter(is_ours);
        if said.id.is_empty() || said.id.len() > 64 || (text.is_empty() && file.is_none()) {
            return None;
        }
        let message = Message {
            id: said.id,
            conversation: id,
            from: session.side,
            name: session.name.clone(),
            at: now(),
            text,
            file,
        };
        self.clock += 1;
        conversation.touched = self.clock;
        conversation.messages.push_back(message.clone());
        if conversation.messages.len() > MAX_MESSAGES {
            conversation.messages.pop_front();
        }
        Some(message)
    }

    /// Messages of a conversation, oldest first.
    pub(crate) fn history(&self, conversation: &str) -> Option<Vec<Message>> {
        let conversation = self.conversations.get(conversation)?;
        Some(conversation.messages.iter().cloned().collect())
    }

    pub(crate) fn summary(&self, id: &str) -> Option<ConversationSummary> {
        let conversation = self.conversations.get(id)?;
        Some(ConversationSummary {
            id: id.to_owned(),
            name: conversation.name.clone(),
            online: self.is_online(id),
            count: conversation.messages.len(),
            last: conversation.messages.back().cloned(),
        })
    }

    /// Every conversation, the latest first.
    pub(crate) fn summaries(&self) -> Vec<ConversationSummary> {
        let mut ids: Vec<_> = self.conversations.iter().collect();
        ids.sort_by_key(|(_, conversation)| std::cmp::Reverse(conversation.touched));
        ids.into_iter().filter_map(|(id, _)| self.summary(id)).collect()
    }

    /// The names of the agents that are here, each once.
    pub(crate) fn agents(&self) -> Vec<String> {
        let here = self.sessions.values().filter(|session| session.side == Party::Agent);
        let mut names: Vec<_> = here.map(|session| session.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(crate) fn sockets(&self) -> usize {
        self.sessions.len()
    }

    fn is_online(&self, conversation: &str) -> bool {
        self.sessions.values().any(|session| session.conversation == conversation)
    }

    fn make_room(&mut self) {
        if self.conversations.len() < MAX_CONVERSATIONS {
            return;
        }
        let quiet =
            |id: &String| (self.is_online(id), self.conversations.get(id).map(|c| c.touched));
        if let Some(id) = self.conversations.keys().min_by_key(|id| quiet(id)).cloned() {
            self.conversations.remove(&id);
        }
    }
}

/// Only a path on this site: a link to anywhere else is not a file the file engine keeps.
fn is_ours(file: &Attachment) -> bool {
    file.url.starts_with('/')
        && !file.url.starts_with("//")
        && !file.url.contains('\\')
        && file.url.len() <= 500
        && file.name.len() <= 500
        && file.media_type.len() <= 100
}

fn or_default(name: &str, default: &str) -> String {
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    if name.is_empty() { default.to_owned() } else { name }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: &str, text: &str) -> NewMessage {
        NewMessage { id: id.to_owned(), text: text.to_owned(), ..NewMessage::default() }
    }

    #[test]
    fn saying_it_again_after_a_reconnect_says_it_once() {
        let mut chat = Chat::default();
        let (first, second) = (Sid::new(), Sid::new());
        chat.join_customer(first, "key", "Customer");
        let sent = chat.say(first, said("1", "hello")).unwrap();
        chat.leave(first);

        let back = chat.join_customer(second, "key", "Customer");
        assert_eq!(chat.say(second, said("1", "hello")).unwrap(), sent);
        assert_eq!(chat.history(&back.conversation).unwrap(), [sent]);
    }

    #[test]
    fn a_customer_writes_to_no_conversation_but_their_own() {
        let mut chat = Chat::default();
        let (one, two) = (Sid::new(), Sid::new());
        let theirs = chat.join_customer(one, "one", "").conversation;
        chat.join_customer(two, "two", "");
        let intruding = NewMessage { conversation: theirs.clone(), ..said("1", "hello") };
        assert_ne!(chat.say(two, intruding).unwrap().conversation, theirs);
        assert!(chat.history(&theirs).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_not_said() {
        let mut chat = Chat::default();
        let sid = Sid::new();
        chat.join_customer(sid, "key", "");
        assert_eq!(chat.say(sid, said("1", "  ")), None);
        assert_eq!(chat.say(sid, said("", "text")), None);
        assert_eq!(chat.say(Sid::new(), said("1", "text")), None);
        let elsewhere = Attachment {
            name: "a".into(),
            url: "javascript:alert(1)".into(),
            media_type: String::new(),
            size: 0,
        };
        assert_eq!(chat.say(sid, NewMessage { file: Some(elsewhere), ..said("1", "") }), None);
    }

    #[test]
    fn history_and_conversations_are_bounded() {
        let mut chat = Chat::default();
        let sid = Sid::new();
        let first = chat.join_customer(sid, "first", "").conversation;
        for number in 0..=MAX_MESSAGES {
            chat.say(sid, said(&format!("m{number}"), "x")).unwrap();
        }
        let history = chat.history(&first).unwrap();
        assert_eq!(history.len(), MAX_MESSAGES);
        assert_eq!(history[0].id, "m1");

        for number in 0..=MAX_CONVERSATIONS {
            let passthrough_conn = Sid::new();
            chat.join_customer(passthrough_conn, &number.to_string(), "");
            chat.leave(passthrough_conn);
        }
        assert_eq!(chat.summaries().len(), MAX_CONVERSATIONS);
        assert!(chat.summary(&first).is_some(), "who is here stays");
    }
}
