//! The control catalogues an annotation may name, by the ids their publishers gave.
//!
//! In: a key and an id, as a policy wrote them. Out: the control, or that there is none of that name. A closed table: a claim
//! to an id nobody published would look like one to a control.
//! Sources: OWASP NHI Top 10 (2025), OWASP Top 10 for Agentic Applications (2026), CSA MAESTRO, NIST CSF 2.0, NIST AI RMF 1.0,
//! MITRE ATLAS 5.6.1. NIST's outcomes are sentences; here they are shortened.

/// One catalogue.
#[derive(Debug)]
pub struct Framework {
    /// As annotations write it.
    pub key: &'static str,
    pub title: &'static str,
    /// Ids and names, in the order of the catalogue.
    pub controls: &'static [(&'static str, &'static str)],
}

impl Framework {
    pub fn named(key: &str) -> Option<&'static Self> {
        FRAMEWORKS.iter().find(|framework| framework.key == key)
    }

    /// A control's place in the catalogue.
    pub fn place(&self, id: &str) -> Option<usize> {
        self.controls.iter().position(|(known, _)| *known == id)
    }
}

pub const FRAMEWORKS: &[Framework] = &[
    Framework {
        key: "owasp_nhi_2025",
        title: "OWASP Non-Human Identities Top 10, 2025",
        controls: &[
            ("NHI1", "Improper Offboarding"),
            ("NHI2", "Secret Leakage"),
            ("NHI3", "Vulnerable Third-Party NHI"),
            ("NHI4", "Insecure Authentication"),
            ("NHI5", "Overprivileged NHI"),
            ("NHI6", "Insecure Cloud Deployment Configurations"),
            ("NHI7", "Long-Lived Secrets"),
            ("NHI8", "Environment Isolation"),
            ("NHI9", "NHI Reuse"),
            ("NHI10", "Human Use of NHI"),
        ],
    },
    Framework {
        key: "owasp_agentic_2026",
        title: "OWASP Top 10 for Agentic Applications, 2026",
        controls: &[
            ("ASI01", "Agent Goal Hijack"),
            ("ASI02", "Tool Misuse & Exploitation"),
            ("ASI03", "Identity & Privilege Abuse"),
            ("ASI04", "Agentic Supply Chain Vulnerabilities"),
            ("ASI05", "Unexpected Code Execution (RCE)"),
            ("ASI06", "Memory & Context Poisoning"),
            ("ASI07", "Insecure Inter-Agent Communication"),
            ("ASI08", "Cascading Failures"),
            ("ASI09", "Human-Agent Trust Exploitation"),
            ("ASI10", "Rogue Agents"),
        ],
    },
    Framework {
        key: "csa_maestro",
        title: "CSA MAESTRO layers",
        controls: &[
            ("L1", "Foundation Models"),
            ("L2", "Data Operations"),
            ("L3", "Agent Frameworks"),
            ("L4", "Deployment & Infrastructure"),
            ("L5", "Evaluation & Observability"),
            ("L6", "Security & Compliance"),
            ("L7", "Agent Ecosystem"),
        ],
    },
    Framework {
        key: "nist_csf_2_0",
        title: "NIST CSF 2.0",
        controls: &[
            ("PR.AA-01", "Identities and credentials are managed"),
            ("PR.AA-02", "Identities are proofed and bound to credentials"),
            ("PR.AA-03", "Users, services and hardware are authenticated"),
            ("PR.AA-04", "Identity assertions are protected, conveyed and verified"),
            ("PR.AA-05", "Access permissions are defined in a policy, enforced and reviewed"),
            ("PR.PS-04", "Log records are generated"),
            ("DE.CM-01", "Networks are monitored"),
            ("DE.CM-06", "External service providers are monitored"),
            ("DE.CM-09", "Computing and its data are monitored"),
            ("DE.AE-02", "Events are analysed"),
            ("DE.AE-03", "Events are correlated"),
            ("DE.AE-07", "Threat intelligence is integrated"),
            ("RS.MI-01", "Incidents are contained"),
        ],
    },
    Framework {
        key: "nist_ai_rmf_1_0",
        title: "NIST AI RMF 1.0",
        controls: &[
            ("GOVERN 1.6", "AI systems are inventoried"),
            ("GOVERN 1.7", "AI systems are decommissioned safely"),
            ("GOVERN 2.1", "Roles and responsibilities are clear"),
            ("GOVERN 3.2", "Human-AI oversight is defined"),
            ("MAP 3.5", "Human oversight processes are defined"),
            ("MEASURE 2.4", "AI systems are monitored in production"),
            ("MANAGE 1.4", "Residual risks are documented"),
            ("MANAGE 2.4", "AI systems can be superseded, disengaged or deactivated"),
            ("MANAGE 4.1", "Monitoring after deployment is planned"),
            ("MANAGE 4.3", "Incidents are communicated"),
        ],
    },
    Framework {
        key: "mitre_atlas",
        title: "MITRE ATLAS 5.6.1",
        controls: &[
            ("AML.T0010.005", "AI Supply Chain Compromise: AI Agent Tool"),
            ("AML.T0011.002", "User Execution: Poisoned AI Agent Tool"),
            ("AML.T0012", "Valid Accounts"),
            ("AML.T0029", "Denial of AI Service"),
            ("AML.T0034.002", "Cost Harvesting: Agentic Resource Consumption"),
            ("AML.T0051", "LLM Prompt Injection"),
            ("AML.T0053", "AI Agent Tool Invocation"),
            ("AML.T0055", "Unsecured Credentials"),
            ("AML.T0080", "AI Agent Context Poisoning"),
            ("AML.T0081", "Modify AI Agent Configuration"),
            ("AML.T0083", "Credentials from AI Agent Configuration"),
            ("AML.T0084", "Discover AI Agent Configuration"),
            ("AML.T0085.001", "Data from AI Services: AI Agent Tools"),
            ("AML.T0086", "Exfiltration via AI Agent Tool Invocation"),
            ("AML.T0096", "AI Service API"),
            ("AML.T0098", "AI Agent Tool Credential Harvesting"),
            ("AML.T0099", "AI Agent Tool Data Poisoning"),
            ("AML.T0101", "Data Destruction via AI Agent Tool Invocation"),
            ("AML.T0103", "Deploy AI Agent"),
            ("AML.T0104", "Publish Poisoned AI Agent Tool"),
            ("AML.T0105", "Escape to Host"),
            ("AML.T0108", "AI Agent"),
            ("AML.T0110", "AI Agent Tool Poisoning"),
        ],
    },
];
