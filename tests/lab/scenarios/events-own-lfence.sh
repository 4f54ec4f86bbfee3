# like: own-lfence
# event-records: yes
