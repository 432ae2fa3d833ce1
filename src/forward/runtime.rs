//! State of the forward proxy in one generation: its policy, and the counters and limits of its
//! rules.

use std::collections::HashMap;
use std::sync::Arc;

use crate::egress::EgressRule;
use crate::generation::ForwardProxy;
use crate::generation::forward_proxy::ForwardProxyListener;
use crate::message::Reason;
use crate::net::rate::Rate;
use crate::telemetry::egress::NO_RULE;
use crate::telemetry::{LabelLimits, ListenerMetrics, RuleMetrics};

/// Value of the profile label in logs and metrics.
pub const PROFILE_LABEL: &str = "forward";

/// Forward proxy state of one generation.
pub struct ForwardRuntime {
    pub(super) forward_proxy: Arc<ForwardProxy>,
    rules: HashMap<String, Arc<RuleStats>>,
    pub(super) no_rule: Arc<RuleStats>,
}

/// Counters and limits of one rule.
pub(super) struct RuleStats {
    pub(super) name: String,
    pub(super) metrics: RuleMetrics,
    /// Its limit in bytes per second, and that limit at work.
    rate: Option<(u64, Arc<Rate>)>,
}

/// State of one listener in one generation.
pub struct ForwardListenerState {
    /// The listener.
    pub listener: Arc<ForwardProxyListener>,
    /// State shared by the listeners of the generation.
    pub way: Arc<ForwardRuntime>,
    pub(super) metrics: ListenerMetrics,
}

impl ForwardRuntime {
    /// Prepares counters and limits. Limits that stay the same go on from where `previous` has
    /// them.
    #[must_use]
    pub fn new(
        forward_proxy: Arc<ForwardProxy>,
        names: &LabelLimits,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let rules = forward_proxy.policy.rules().iter().map(|rule| {
            let settings = &rule.settings;
            let known = previous.and_then(|way| way.rules.get(&settings.name)?.rate.clone());
            let rate = known.filter(|(limit, _)| *limit == settings.rate);
            let fresh =
                || (settings.rate > 0).then(|| (settings.rate, Arc::new(Rate::new(settings.rate))));
            let tally = RuleStats {
                name: settings.name.clone(),
                metrics: names.rule(&settings.name, Reason::ALL.len()),
                rate: rate.or_else(fresh),
            };
            (settings.name.clone(), Arc::new(tally))
        });
        let rules = rules.collect();
        let no_rule = RuleStats {
            name: NO_RULE.to_owned(),
            metrics: names.rule(NO_RULE, Reason::ALL.len()),
            rate: None,
        };
        Arc::new(Self { forward_proxy, rules, no_rule: Arc::new(no_rule) })
    }

    /// Counters and limits of a rule of this generation.
    pub(super) fn tally(&self, rule: &EgressRule) -> &Arc<RuleStats> {
        self.rules.get(&rule.settings.name).unwrap_or(&self.no_rule)
    }

    /// State of each listener, in the order of the files.
    #[must_use]
    pub fn stands(self: &Arc<Self>, names: &LabelLimits) -> Vec<Arc<ForwardListenerState>> {
        let one = |listener: &Arc<ForwardProxyListener>| {
            Arc::new(ForwardListenerState {
                listener: Arc::clone(listener),
                way: Arc::clone(self),
                metrics: match listener.proxy_protocol {
                    Some(_) => names.listener_for_balancers(PROFILE_LABEL, &listener.label),
                    None => names.listener(PROFILE_LABEL, &listener.label),
                },
            })
        };
        self.forward_proxy.listeners.iter().map(one).collect()
    }
}

impl RuleStats {
    pub(super) fn rate(&self) -> Option<Arc<Rate>> {
        self.rate.as_ref().map(|(_, rate)| Arc::clone(rate))
    }
}

impl ForwardListenerState {
    /// The same listener without rules: it denies every request.
    #[must_use]
    pub fn closed(&self) -> Self {
        let way = ForwardRuntime {
            forward_proxy: Arc::new(self.way.forward_proxy.without_rules()),
            rules: HashMap::new(),
            no_rule: Arc::clone(&self.way.no_rule),
        };
        self.under(&Arc::new(way))
    }

    /// The same listener with another runtime: for its open connections after its removal.
    #[must_use]
    pub fn under(&self, way: &Arc<ForwardRuntime>) -> Self {
        Self {
            listener: Arc::clone(&self.listener),
            way: Arc::clone(way),
            metrics: self.metrics.clone(),
        }
    }
}
