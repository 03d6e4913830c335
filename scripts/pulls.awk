# The images that are being pulled, out of what `daemonlet get images` prints. On a terminal (columns > 0) each is two lines, its name
# and a bar as long as the terminal leaves room for; elsewhere one line, and a new one for each tenth. Driven by run.sh.
match($0, /(Pulling|BackOff): /) {
    name = $1
    said = substr($0, RSTART)
    # The column behind it: no file brought it.
    sub(/ +<none> *$/, "", said)
    progress = said
    sub(/^[A-Za-z]+: /, "", progress)
    if (said !~ /^Pulling: [0-9]+% \(/) {
        printf "%s  %s\n", name, said
    } else if (columns > 0) {
        room = columns - length(progress) - 3
        if (room > 40) room = 40
        if (room < 5) room = 5
        bar = ""
        for (i = 1; i <= room; i++) bar = bar (i * 100 <= (progress + 0) * room ? "#" : "-")
        printf "%s\n[%s] %s\n", name, bar, progress
    } else {
        printf "%s  Pulling: %d%%\n", name, int(progress / 10) * 10
    }
}
