//! `[[profile.NAME.listener]]`: an address and its function.
//!
//! Produces a [`Listener`]. Nothing is bound.

use crate::config::checked::{ClientCertificates, Listener, ListenerMode, UpstreamId};
use crate::config::file::{ClientCertificateFile, ListenerFile, Written};
use crate::config::problem::{Problem, Span};

use super::{Checker, NameSet};

impl Checker<'_> {
    pub(super) fn listener(
        &mut self,
        written: &Written<ListenerFile>,
        upstreams: &mut NameSet,
    ) -> Option<Listener> {
        let file = &written.value;
        let listen = self.address(&file.listen);
        let client_certificates =
            self.client_certificates(file.client_ca.as_ref(), file.client_certificate.as_ref());
        let proxy_protocol = self.proxy_protocol(file.proxy_protocol.as_ref());
        let serve = self.serve(file, upstreams);
        Some(Listener {
            place: self.place(&file.listen),
            listen: listen?,
            serve: serve?,
            http2: file.http2.as_ref().is_none_or(|http2| http2.value),
            client_certificates: client_certificates?,
            proxy_protocol: proxy_protocol?,
        })
    }

    fn serve(&mut self, file: &ListenerFile, upstreams: &mut NameSet) -> Option<ListenerMode> {
        if let Some(port) = &file.redirect_to_https {
            self.redirect_only(file, self.place(port));
            let port = self.number(Some(port), 443, 1..=65_535);
            return u16::try_from(port).ok().map(|port| ListenerMode::RedirectToHttps { port });
        }
        let Some(component) = &file.component else { return Some(ListenerMode::Routes) };
        let Some(index) = upstreams.find(&component.value) else {
            let place = self.place(component);
            let problem = upstreams.unknown("listener.unknown-upstream", &component.value, place);
            self.found.strike(place, problem);
            return None;
        };
        Some(ListenerMode::Component(UpstreamId(index)))
    }

    /// Reports keys that do not apply to a listener that only redirects to https.
    fn redirect_only(&mut self, file: &ListenerFile, place: Span) {
        let others = [
            file.component.as_ref().map(|written| ("component", self.place(written))),
            file.http2.as_ref().map(|written| ("http2", self.place(written))),
            file.client_ca.as_ref().map(|written| ("client-ca", self.place(written))),
            file.client_certificate
                .as_ref()
                .map(|written| ("client-certificate", self.place(written))),
        ];
        for (key, other) in others.into_iter().flatten() {
            let message = format!("`{key}` has no effect on a listener that only redirects");
            self.found.push(
                Problem::error("listener.redirects", other, message)
                    .with_label("take this out")
                    .with_related(
                        place,
                        "with this key every answer is a redirect over plain HTTP",
                    ),
            );
        }
    }

    /// `client-ca` and `client-certificate` of a listener.
    pub(super) fn client_certificates(
        &mut self,
        ca: Option<&Written<String>>,
        demand: Option<&Written<ClientCertificateFile>>,
    ) -> Option<ClientCertificates> {
        let Some(written) = ca else {
            if let Some(written) = demand {
                let message = "`client-certificate` has no effect without `client-ca`";
                self.found.push(
                    Problem::error("listener.client-certificate", self.place(written), message)
                        .with_label("clients are not asked for a certificate")
                        .with_help("name the CA of the clients' certificates with `client-ca`"),
                );
                return None;
            }
            return Some(ClientCertificates::Off);
        };
        let place = self.place(written);
        let ca = self.readable(written, "client CA file")?;
        Some(match demand.map(|written| written.value) {
            Some(ClientCertificateFile::Optional) => ClientCertificates::Optional { ca, place },
            Some(ClientCertificateFile::Required) | None => {
                ClientCertificates::Required { ca, place }
            }
        })
    }
}
