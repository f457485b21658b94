{{/* Match condition: external IPs are there, and not those of before. */}}
{{- define "fairlead.externalIPsChange" -}}
- name: external-ips-change
  expression: >-
    has(object.spec.externalIPs) && object.spec.externalIPs.size() > 0 &&
    (oldObject == null || !has(oldObject.spec.externalIPs) || object.spec.externalIPs != oldObject.spec.externalIPs)
{{- end }}

{{/* Variables: the external IPs that were not there before. Addresses are compared by value; of what cannot be read the
text is compared. */}}
{{- define "fairlead.addedExternalIPs" -}}
- name: before
  expression: "oldObject != null && has(oldObject.spec.externalIPs) ? oldObject.spec.externalIPs : []"
- name: added
  expression: >-
    object.spec.externalIPs.filter(a, !(a in variables.before) &&
    !(isIP(a) && variables.before.exists(b, isIP(b) && ip(a) == ip(b))))
- name: addresses
  expression: "variables.added.filter(a, isIP(a)).map(a, ip(a))"
{{- end }}

{{/* The added external IPs in a message. */}}
{{- define "fairlead.nameAdded" -}}
(variables.added.size() == 1 ? 'external IP ' : 'one of the external IPs ') + variables.added.join(', ')
{{- end }}

{{/* Validation: an address that CEL does not read (leading zeros, IPv4-mapped) cannot be compared with pools, but others
might read it. `unless` is what comes before. The API server itself takes such addresses before Kubernetes 1.36. */}}
{{- define "fairlead.plainExternalIPs" -}}
- expression: "{{ .unless }}variables.added.all(a, isIP(a))"
  reason: Forbidden
  messageExpression: >-
    '"' + variables.added.filter(a, !isIP(a)).join('", "') + '" of spec.externalIPs cannot be compared with AddressPools:' +
    ' write plain addresses, without leading zeros and not IPv4-mapped'
{{- end }}

{{/* How many comparisons of an address with a CIDR one expression may do. */}}
{{- define "fairlead.mostComparisons" -}}
65536
{{- end }}
