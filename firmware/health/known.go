package health

// Kind is one kind of condition: all that is the same each time it is so. This table is the only place where a severity stands, and
// docs/field/troubleshooting.md and the alert rules in docs/alerts.yml are made from it.
type Kind struct {
	Code     string
	Severity Severity
	About    string // what Condition.About names: "monitor", "leaf node"; "" the box as a whole
	Means    string // for a person who has only the code
	Remedy   string // what to do, unless the condition itself knows better
}

// Kinds are all conditions of a box, the gravest first.
func Kinds() []Kind { return kinds }

var kinds = []Kind{
	{"spool-refuses", Critical, "", "Readings are not kept, and monitors get no positive acknowledgement. They repeat, or lose what they cannot hold.",
		"Bring the network back, so that the log can be sent and its space used again; if the disk is at fault, replace the box."},
	{"monitor-line", Critical, "monitor", "The port or the serial line of a monitor cannot be opened, so nothing of it is heard.",
		"Check that the device is plugged in and that no other program has the port; it is tried again each second."},
	{"not-signed", Critical, "", "Readings are kept but not signed, so no peer may have them yet.",
		"Wait some minutes: the chip may come back. If it does not, switch the box off and on; then replace it. What it keeps is not lost."},
	{"log-unreadable", Critical, "", "A part of the log on the disk cannot be read any more. New readings are kept and sent.",
		"Replace the box soon: its disk is failing. vitalgate fsck says which records are missing."},
	{"log-damaged", Critical, "", "Records on the disk cannot be read and are left out. All others are sent, and peers see the gap.",
		"Run vitalgate fsck --repair on the data folder; replace the disk."},
	{"log-rolled-back", Critical, "", "The log on the disk is older than what the network has: a backup was put back, or the disk was copied. Nothing is published any more.",
		"Enrol the box anew. If nobody put a backup back, tell the facility's administrator: the disk may have been copied."},
	{"foreign-writer", Critical, "leaf node", "A leaf node has records in this box's name that this box did not send. Somebody may have its keys, or there are two of it.",
		"Tell the facility's administrator at once; have the box revoked until it is known why."},
	{"untrusted-leaf", Critical, "leaf node", "What answers at the leaf node's address is not the facility's. Nothing was sent to it.",
		"Check the network between box and leaf node: somebody may be in between. If the peer was replaced, get a new grant."},
	{"offline", Warning, "", "No leaf node can be reached. Readings are kept and sent later.",
		"Check the network cable and the lamp at the socket; ask whether the ward's peer runs."},
	{"unauthorised", Warning, "leaf node", "The leaf node does not accept this box. Readings are kept.",
		"Ask the facility whether the box is registered there and in force (vitalpeer box list)."},
	{"network-lost-data", Warning, "leaf node", "A leaf node lost what it had acknowledged, and is being given it again from the box's log.",
		"Nothing at the box. Look at the peer: its disk may be failing."},
	{"monitor-away", Warning, "monitor", "There is no line to the monitor.",
		"Check that the monitor is on, its cable and its settings."},
	{"monitor-silent", Warning, "monitor", "The monitor is connected but has sent nothing for minutes.",
		"Check the monitor's export settings (interval, destination)."},
	{"no-hardware-tpm", Warning, "", "The signing key is not in a TPM chip, so it could be copied.",
		"For patients, use a box with a TPM 2.0 chip and set tpm.source to its device."},
	{"start-not-attested", Warning, "", "The TPM signs, but has not vouched for this start of the box. Readings are sent; peers have the counters and the firmware on the box's word only.",
		"Restart the box. If it stays so, enable the SHA-256 bank of the TPM in the firmware setup, or replace the TPM."},
	{"status-page", Warning, "", "The status page is not shown.",
		"Set status.listen to a free address of this box; it is tried again by itself."},
}

// Lookup is the kind of a code.
func Lookup(code string) (Kind, bool) {
	for _, k := range kinds {
		if k.Code == code {
			return k, true
		}
	}
	return Kind{}, false
}

// rank is the place of a code in the table; what is in none comes behind.
func rank(code string) int {
	for i, k := range kinds {
		if k.Code == code {
			return i
		}
	}
	return len(kinds)
}
